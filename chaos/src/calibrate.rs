//! placeholder
pub(crate) fn run(_options: &crate::options::Options) -> anyhow::Result<bool> {
    anyhow::bail!("not yet")
}
