//! What holds for client programs, in TOML and in Heartbeat's files.

use std::path::Path;

use super::finding::quoted;
use super::heartbeat::World;

/// What keeps a program from running on this machine, and the remedy.
pub(super) fn program_problem(world: &dyn World, program: &Path) -> Option<(String, &'static str)> {
    let why = world.not_executable(program)?;
    let shown = quoted(&program.to_string_lossy());
    Some((format!("the program {shown} cannot be run: {why}"), "install it, or correct the path"))
}

/// What keeps anything from running as that user, and the remedy.
pub(super) fn user_problem(world: &dyn World, user: &str) -> Option<(String, &'static str)> {
    let shown = quoted(user);
    match world.has_user(user) {
        Ok(true) => None,
        Ok(false) => Some((format!("there is no user {shown}"), "create it, or name another one")),
        Err(error) => {
            let message = format!("cannot look for the user {shown}: {error}");
            Some((message, "see that the users can be read"))
        }
    }
}
