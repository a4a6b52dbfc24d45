//! The tasks that run programs of the workspace.
use anyhow::Result;
pub fn program(_name: &str, _options: &[String]) -> Result<()> {
    Ok(())
}
pub fn tests(_options: &[String]) -> Result<()> {
    Ok(())
}
