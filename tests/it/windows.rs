//! Files that were written on Windows: a byte order mark, CRLF line ends, UTF-16. `import` has its own in the module of that name.

use std::fs;

use crate::support::{House, keyferry, run};

const CLASS: &str = "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: { name: shop }\nspec:\n  provider: keyferry\n  parameters:\n    objects: |\n      - secret: shop/db\n        field: password\n";

fn crlf(text: &str) -> String {
    text.replace('\n', "\r\n")
}

fn marked(text: &str) -> Vec<u8> {
    format!("\u{feff}{}", crlf(text)).into_bytes()
}

fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    std::iter::once(0xfeff).chain(crlf(text).encode_utf16()).flat_map(bytes).collect()
}

/// Exit code, output and messages, with `DIR` for the test's folder.
fn check(house: &House, words: &[&str]) -> (i32, String, String) {
    let folder = house.folder.path().to_str().unwrap();
    let (code, out, err) = run(keyferry().arg("check").args(words.iter().map(|word| word.replace("DIR", folder))), "");
    (code, out.replace(folder, "DIR"), err.replace(folder, "DIR"))
}

#[test]
fn a_class_is_read_as_kubectl_reads_it() {
    let house = House::bare();
    let plain = CLASS.as_bytes().to_vec();
    let files = [plain, marked(CLASS), utf16(CLASS, u16::to_le_bytes), utf16(CLASS, u16::to_be_bytes)];
    for content in files {
        fs::write(house.path("class.yaml"), content).unwrap();
        let (code, out, err) = check(&house, &["DIR/class.yaml"]);
        assert_eq!((code, out.as_str(), err.as_str()), (0, "1 object in 1 class, 1 file: no fault\n", ""));
    }
    let without_mark: Vec<u8> = CLASS.encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(house.path("class.yaml"), without_mark).unwrap();
    let (code, out, _) = check(&house, &["DIR/class.yaml"]);
    assert_eq!(code, 2);
    insta::assert_snapshot!(out, @"
    DIR/class.yaml:1:1: error: cannot be read: it is UTF-16, as PowerShell writes it (save it as UTF-8)
    0 objects in 0 classes, 0 files: 1 fault
    ");
}

#[test]
fn a_configuration_is_read_without_its_mark_and_utf16_is_named() {
    let house = House::new("");
    let text = fs::read_to_string(house.path("keyferry.yaml")).unwrap();
    fs::write(house.path("keyferry.yaml"), marked(&text)).unwrap();
    assert_eq!(check(&house, &["--config", "DIR/keyferry.yaml"]).0, 0);
    fs::write(house.path("keyferry.yaml"), utf16(&text, u16::to_le_bytes)).unwrap();
    let (code, out, _) = check(&house, &["--config", "DIR/keyferry.yaml"]);
    assert_eq!(code, 1);
    insta::assert_snapshot!(out, @"
    DIR/keyferry.yaml:1:1: error: is UTF-16, as PowerShell writes it (save it as UTF-8)
    DIR/keyferry.yaml: 1 fault
    ");
}

#[test]
fn a_vaults_keys_are_read_without_their_mark() {
    let house = House::bare();
    house.vault(&["init"]);
    for file in ["age.key", "vault/.recipients"] {
        let text = fs::read_to_string(house.path(file)).unwrap();
        fs::write(house.path(file), marked(&text)).unwrap();
    }
    house.vault(&["set", "shop/db", "password=x"]);
    assert_eq!(house.vault(&["get", "shop/db", "--field", "password"]), "x");

    let folder = house.folder.path().to_str().unwrap();
    let told = |words: &[&str]| {
        let mut command = keyferry();
        command.arg("vault").args(words).env("KEYFERRY_VAULT", house.path("vault")).env("KEYFERRY_IDENTITY", house.path("age.key"));
        run(&mut command, "").2.replace(folder, "DIR")
    };
    let key = fs::read_to_string(house.path("age.key")).unwrap();
    fs::write(house.path("age.key"), utf16(&key, u16::to_le_bytes)).unwrap();
    insta::assert_snapshot!(told(&["get", "shop/db"]), @"error: shop/db: the identity file DIR/age.key is UTF-16, as PowerShell writes it (save it as UTF-8)");
    fs::write(house.path("vault/.recipients"), utf16(&key, u16::to_le_bytes)).unwrap();
    insta::assert_snapshot!(told(&["set", "shop/db", "a=x"]), @"error: DIR/vault/.recipients is UTF-16, as PowerShell writes it (save it as UTF-8)");
}
