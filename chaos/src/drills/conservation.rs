//! The operator's own sums, as docs/reliability.md tells him to make them: that very statement.

use crate::platform::Platform;

/// What the documentation says.
const STATEMENT: &str = include_str!("../../../docs/conservation.sql");

/// What has been decided, and how much of it has no reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) partitions: usize,
    pub(super) consumed: i64,
    /// Records without a reason or with two, over all partitions.
    pub(super) gap: i64,
}

pub(super) fn sums(platform: &Platform) -> anyhow::Result<Sums> {
    let rows = platform.connect_in_time()?.query(STATEMENT.trim(), &[])?;
    let mut sums = Sums { partitions: rows.len(), consumed: 0, gap: 0 };
    for row in rows {
        sums.consumed += row.try_get::<_, i64>("consumed")?;
        // A record too many in one partition does not make up for one too few in another.
        sums.gap += row.try_get::<_, i64>("gap")?.abs();
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_statement_is_the_one_that_operators_are_told() {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let page = words(include_str!("../../../docs/reliability.md"));
        assert!(page.contains(&words(super::STATEMENT)), "docs/reliability.md has another statement than docs/conservation.sql");
    }
}
