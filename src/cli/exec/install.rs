//! Copies this program into a volume: an image made from nothing has no `cp`.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use crate::cli::Failure;
use crate::cli::streams::{warn, write};
use crate::files::create_new;

const NAME: &str = "keyferry";
const MODE: u32 = 0o755;

/// Copies the running program to `DIR/keyferry`: the whole program, or nothing.
pub fn run(dir: &Path, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failure> {
    // The program that runs, also if another file has its name now.
    let program = File::open("/proc/self/exe").map_err(|error| Failure::fault(format!("/proc/self/exe: {error} (is /proc mounted?)")))?;
    if !dir.is_dir() {
        return Err(Failure::usage(format!("{}: is not a folder (mount a volume there, such as an emptyDir)", dir.display())));
    }
    if needs_libraries(&program).unwrap_or(true) {
        warn(
            err,
            "this program is not static: it runs only in images that have its libraries (a release, and `make static`, have one that runs in all)",
        );
    }
    let to = dir.join(NAME);
    let bytes = copied(program, dir, &to).map_err(|error| Failure::fault(format!("{}: {error}", to.display())))?;
    write(out, &format!("{}: {bytes} bytes\n", to.display()))
}

fn copied(mut program: File, dir: &Path, to: &Path) -> io::Result<u64> {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no randomness"))?;
    let draft = dir.join(format!(".{NAME}-{}", data_encoding::HEXLOWER.encode(&random)));
    let made = create_new(&draft)?;
    let done = filled(&mut program, made).and_then(|bytes| fs::rename(&draft, to).map(|()| bytes));
    if done.is_err() {
        // If it cannot be removed either, it was never there.
        let _ = fs::remove_file(&draft);
    }
    done
}

fn filled(program: &mut File, mut made: File) -> io::Result<u64> {
    let bytes = io::copy(program, &mut made)?;
    made.set_permissions(Permissions::from_mode(MODE))?;
    Ok(bytes)
}

/// Whether the program names an interpreter, which loads its libraries: an entry PT_INTERP of the program headers (elf(5)). All our targets
/// have 64 bits and are little-endian.
fn needs_libraries(program: &File) -> io::Result<bool> {
    const INTERP: [u8; 4] = [3, 0, 0, 0];
    let mut header = [0; 64];
    program.read_exact_at(&mut header, 0)?;
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let (table, size, count) = (header[32..40].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), half(54), half(56));
    for entry in 0..u64::from(count) {
        let mut kind = [0; 4];
        program.read_exact_at(&mut kind, table.saturating_add(entry * u64::from(size)))?;
        if kind == INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}
