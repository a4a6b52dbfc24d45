//! `hb_standby` and `hb_takeover`: this node gives groups up, or takes them, once.

use super::{Printed, Program};
use crate::control::client::Client;
use crate::control::command::CommandRequest;
use crate::core::command::Which;

/// As the originals: also for wrong usage.
const EXIT_FAILED: u8 = 1;

pub(super) async fn run(program: Program, client: &Client, arguments: &[String]) -> Printed {
    let name = program.name();
    let usage = format!("usage:\n{name} [all|foreign|local|failback]\n");
    let which = match arguments {
        [] => Which::All,
        [which] => match which.as_str() {
            "all" => Which::All,
            "local" => Which::Local,
            "foreign" => Which::Foreign,
            "failback" => Which::Failback,
            "--help" => return Printed::failed(EXIT_FAILED, usage),
            wrong => {
                let text = format!("{name}: wrong resources({wrong}).\n{usage}");
                return Printed::failed(EXIT_FAILED, text);
            }
        },
        _ => return Printed::failed(EXIT_FAILED, format!("{name}: too many arguments\n{usage}")),
    };
    let (request, doing) = match program {
        Program::HbTakeover => (CommandRequest::TakeOver { which }, "Taking over"),
        Program::HbStandby | Program::ClStatus => {
            (CommandRequest::GiveUp { which }, "Going standby")
        }
    };
    match client.command(&request).await {
        Ok(accepted) => {
            Printed::done(format!("{doing} [{}]. {}\n", which.word(), accepted.message))
        }
        Err(error) => Printed::failed(EXIT_FAILED, format!("{name}: {error}\n")),
    }
}
