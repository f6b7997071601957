//! Paths, modes and names: what parses is what the driver takes, and it is written back as it was read.

#![no_main]

use keyferry::model::{FileMode, FilePath, FolderPath, SecretName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: String| {
    if let Ok(path) = text.parse::<FilePath>() {
        assert_eq!(path.as_str(), text);
        assert!(!text.starts_with('/') && !text.starts_with("..") && text.len() <= 4096);
        assert!(text.split('/').all(|element| !matches!(element, "" | "." | "..") && element.len() <= 255));
    }
    if let Ok(folder) = text.parse::<FolderPath>() {
        if let Ok(file) = folder.join("x") {
            assert!(file.as_str().parse::<FilePath>().is_ok());
        }
    }
    if let Ok(mode) = text.parse::<FileMode>() {
        assert!(mode.bits() <= 0o777);
    }
    if let Ok(name) = text.parse::<SecretName>() {
        assert_eq!(name.as_str(), text);
        assert!(!text.contains(['%', '?', '#', '\\']));
    }
});
