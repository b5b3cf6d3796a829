//! demo
pub(crate) async fn run(_o: Options) -> anyhow::Result<()> {
    Ok(())
}
#[derive(Debug, clap::Args)]
pub(crate) struct Options {}
