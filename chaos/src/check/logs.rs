//! No secret and no control character in what the instances said, nor in the headers of dead letters (I9).

use crate::check::Findings;
use crate::check::world::World;
use crate::run::Witnesses;

pub(super) fn check(witnesses: &Witnesses, worlds: &[World], findings: &mut Findings) -> anyhow::Result<()> {
    let secret = witnesses.platform.password().as_bytes();
    anyhow::ensure!(!secret.is_empty(), "PostgreSQL has no password: this run proves nothing about I9");
    let leaks = |text: &[u8]| text.windows(secret.len()).any(|window| window == secret);
    for entry in std::fs::read_dir(witnesses.evidence.folder())? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let text = std::fs::read(&path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if leaks(&text) {
            findings.violated("I9", format!("{name} has the password of PostgreSQL"));
        }
        if text.iter().any(|byte| byte.is_ascii_control() && *byte != b'\n') {
            findings.violated("I9", format!("{name} has control characters"));
        }
    }
    for letter in worlds.iter().flat_map(|world| &world.dead_letters) {
        let ours = letter.headers.iter().filter(|(name, _)| name.starts_with("dead-letter-"));
        if ours.into_iter().any(|(_, value)| leaks(value) || value.iter().any(u8::is_ascii_control)) {
            findings.violated("I9", format!("a header of the dead letter {}:{}", letter.partition, letter.offset));
        }
    }
    Ok(())
}
