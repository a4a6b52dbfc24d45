use crate::report::Report;
#[derive(Debug, clap::Args)]
pub(crate) struct Options {}
pub(crate) fn run(_: &Options) -> anyhow::Result<Report> {
    anyhow::bail!("later")
}
