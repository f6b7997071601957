//! The editor that a person has chosen, and the options so that it leaves no copy of a secret elsewhere.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// `$VISUAL` or `$EDITOR`. A shell runs it, as git does, so it may have arguments.
///
/// There is no default editor. A person who has set none may not know how to leave vi, and some programs of that name keep copies in `/var/tmp`.
#[derive(Debug)]
pub struct Editor {
    line: OsString,
    /// The path of its first word, if that is a program.
    program: Option<PathBuf>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Nano,
    Other,
    /// vim and nvim.
    Vim,
}

impl Editor {
    pub fn of_environment() -> Option<Self> {
        let set = |name| env::var_os(name).filter(|line| !line.as_encoded_bytes().trim_ascii().is_empty());
        let line = set("VISUAL").or_else(|| set("EDITOR"))?;
        Some(Self::of(line, env::var_os("PATH").as_deref()))
    }

    fn of(line: OsString, path: Option<&OsStr>) -> Self {
        let program = program(&line, path);
        let kind = program.as_deref().map_or(Kind::Other, Kind::of);
        Self { line, program, kind }
    }

    /// Its name, if Keyferry does not know how to keep this editor from leaving copies.
    pub fn unknown(&self) -> Option<String> {
        match self.kind {
            Kind::Nano | Kind::Vim => None,
            Kind::Other => {
                let line = self.line.to_string_lossy();
                Some(line.split_ascii_whitespace().next().unwrap_or_default().escape_debug().to_string())
            }
        }
    }

    /// The command that edits a file, with `folder` for its temporary files.
    pub fn command(&self, file: &Path, folder: &Path) -> Command {
        // With a simple command, `exec` replaces the shell. A Ctrl-C that is a key of the editor would end the shell.
        let is_simple = self.program.is_some() && !self.line.as_encoded_bytes().iter().any(|byte| b";|&<>()\n".contains(byte));
        let mut script = OsString::from(if is_simple { "exec " } else { "" });
        script.push(&self.line);
        script.push(" \"$@\"");
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).arg(&self.line).args(self.kind.options()).arg(file).env("TMPDIR", folder);
        command
    }
}

// === impl Kind ===

impl Kind {
    fn of(program: &Path) -> Self {
        // `vi` and `editor` are links on many systems. The target of the link is the program that runs.
        let real = program.canonicalize().unwrap_or(program.to_owned());
        let name = real.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if name.starts_with("nano") {
            Self::Nano
        } else if name.starts_with("vim") || name.starts_with("nvim") || name == "vi" && says_it_is_vim(&real) {
            Self::Vim
        } else {
            Self::Other
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            // No history and no backup; its temporary files are beside the text.
            Self::Nano => &["--restricted"],
            Self::Other => &[],
            // No swap file, no viminfo or shada, and no options from a value of the secret (modelines). After the person's own settings: no backup
            // and no undo file.
            Self::Vim => {
                &["-n", "-i", "NONE", "--cmd", "autocmd BufReadPre * setlocal nomodeline", "-c", "set nobackup nowritebackup noundofile"]
            }
        }
    }
}

/// The program at the start of a line, if it is clear without a shell.
fn program(line: &OsStr, path: Option<&OsStr>) -> Option<PathBuf> {
    let word = line.to_str()?.split_ascii_whitespace().next()?;
    if !word.chars().all(|c| c.is_alphanumeric() || "/._+-".contains(c)) {
        return None;
    }
    let folders = if word.contains('/') { vec![PathBuf::new()] } else { env::split_paths(path?).collect() };
    folders.into_iter().map(|folder| folder.join(word)).find(|program| program.is_file())
}

/// Some systems install vim as `vi`; others have nvi or busybox's vi there, which do not take its options.
fn says_it_is_vim(program: &Path) -> bool {
    let asked = Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output();
    asked.is_ok_and(|output| output.stdout.starts_with(b"VIM - "))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_a_name_leads_to_says_which_options_it_gets() {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, script: &str| {
            let path = folder.path().join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        for name in ["vim.basic", "nvim", "nano", "nano-tiny", "emacs", "busybox"] {
            program(name, "");
        }
        for (link, to) in [("editor", "nano"), ("view", "vim.basic"), ("vim", "vim.basic"), ("ex", "busybox")] {
            symlink(folder.path().join(to), folder.path().join(link)).unwrap();
        }
        let kind = |line: &str| Editor::of(line.into(), Some(folder.path().as_os_str())).kind;
        for line in ["vim", "vim -u NONE", " view", "nvim", "vim.basic"] {
            assert_eq!(kind(line), Kind::Vim, "{line}");
        }
        for line in ["nano", "editor -w", "nano-tiny"] {
            assert_eq!(kind(line), Kind::Nano, "{line}");
        }
        for line in ["emacs -nw", "ex", "absent", "nice vim", "X=1 vim", "'vim'", "$HOME/vim", "vim;ls", "vi"] {
            assert_eq!(kind(line), Kind::Other, "{line}");
        }
        let whole = program("vi", "#!/bin/sh\necho 'VIM - Vi IMproved 9.0'\n");
        assert_eq!((kind("vi"), kind(whole.to_str().unwrap())), (Kind::Vim, Kind::Vim));
        program("vi", "#!/bin/sh\necho usage: vi\nexit 1\n");
        assert_eq!(kind("vi"), Kind::Other);
    }
}
