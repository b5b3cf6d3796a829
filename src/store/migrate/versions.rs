//! The versions of our schema, and which programs can work with which. Pure.

/// One version of our schema. A released one is never changed.
pub(super) struct Version {
    /// What leads to it from the version before.
    pub(super) sql: &'static str,
    /// The oldest version whose programs can work with this one; `None`: only programs that know it.
    pub(super) works_with: Option<usize>,
}

/// All versions, oldest first.
pub(super) const VERSIONS: [Version; 4] = [
    Version { sql: include_str!("../sql/0001_ledger.sql"), works_with: None },
    Version { sql: include_str!("../sql/0002_partitions.sql"), works_with: None },
    Version { sql: include_str!("../sql/0003_parts.sql"), works_with: None },
    Version { sql: include_str!("../sql/0004_deployments.sql"), works_with: Some(3) },
];

/// The version that this program knows.
pub const KNOWN: usize = VERSIONS.len();

/// The schema that a database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Its version.
    pub(super) version: usize,
    /// The oldest version whose programs can work with everything in it that this program does not know.
    pub(super) works_with: usize,
}

/// What this program may do with a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Migrate it first, from this version.
    Older(usize),
    /// Work with it.
    Same,
    /// Work with it, though it is newer, and leave it as it is.
    Workable(usize),
    /// Nothing: it is newer.
    Unworkable(usize),
}

/// What a program that knows version `known` may do with the schema.
pub(super) fn standing(found: Option<Found>, known: usize) -> Standing {
    match found {
        None => Standing::Older(0),
        Some(Found { version, .. }) if version < known => Standing::Older(version),
        Some(Found { version, .. }) if version == known => Standing::Same,
        Some(Found { version, works_with }) if works_with <= known => Standing::Workable(version),
        Some(Found { version, .. }) => Standing::Unworkable(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_schema_is_worked_with_only_if_it_says_so() {
        let found = |version, works_with| Some(Found { version, works_with });
        for (found, expected) in [
            (None, Standing::Older(0)),
            (found(3, 3), Standing::Older(3)),
            (found(4, 4), Standing::Same),
            (found(5, 4), Standing::Workable(5)),
            (found(9, 2), Standing::Workable(9)),
            (found(5, 5), Standing::Unworkable(5)),
            (found(9, 7), Standing::Unworkable(9)),
        ] {
            assert_eq!(standing(found, 4), expected, "{found:?}");
        }
    }

    #[test]
    fn a_version_works_with_itself_and_with_none_that_is_newer() {
        for (version, text) in (1..).zip(&VERSIONS) {
            assert!(text.works_with.is_none_or(|oldest| oldest < version), "version {version}");
        }
    }
}
