//! Host names whose addresses a test can change while a program runs.
//!
//! The program starts in a mount namespace of its own, where `/etc/hosts` is the test's file.

use std::fs;
use std::net::Ipv4Addr;

use tempfile::NamedTempFile;

use super::dispatcher::Setting;

pub(crate) struct Names(NamedTempFile);

/// An address as it is written.
pub(crate) fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

impl Names {
    /// Lets what `setting` starts from now on know `name`, at `address`.
    pub(crate) fn give(setting: &mut Setting, name: &str, address: Ipv4Addr) -> Self {
        let names = Self(NamedTempFile::new().unwrap());
        names.point(name, address);
        // Root may make the namespace; others become root in one of users first.
        let own =
            if fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0) { "-m" } else { "-rm" };
        let file = names.0.path().to_str().unwrap();
        let words = ["unshare", own, "sh", "-c", r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#, "sh", file];
        setting.wrapper = words.map(str::to_owned).to_vec();
        names
    }

    /// Moves the name. The file stays the one that is mounted.
    pub(crate) fn point(&self, name: &str, address: Ipv4Addr) {
        fs::write(self.0.path(), format!("127.0.0.1 localhost\n{address} {name}\n")).unwrap();
    }
}
