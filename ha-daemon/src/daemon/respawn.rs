//! Another keeper in place of one that died.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::io::keeper::{Keeper, KeeperOptions};
use crate::io::mailbox::{Letter, Mailbox};

/// Pause before a keeper is started again that died young, or could not be started.
const RESPAWN_PAUSE: Duration = Duration::from_secs(1);

/// Starts another keeper on a thread of its own, and goes on trying until one runs. A keeper that dies
/// at once is not started again at once.
pub(super) fn respawn(options: KeeperOptions, mailbox: Mailbox) -> Box<dyn Fn() + Send> {
    let last = Arc::new(Mutex::new(None::<Instant>));
    Box::new(move || {
        let (options, mailbox, last) = (options.clone(), mailbox.clone(), Arc::clone(&last));
        let spawn = move || {
            let started =
                last.lock().unwrap_or_else(PoisonError::into_inner).replace(Instant::now());
            if started.is_some_and(|started| started.elapsed() < RESPAWN_PAUSE) {
                std::thread::sleep(RESPAWN_PAUSE);
            }
            loop {
                let keeper = Keeper::spawn(options.clone());
                let failed = keeper.is_err();
                mailbox.post(Letter::Keeper(keeper));
                if !failed {
                    return;
                }
                std::thread::sleep(RESPAWN_PAUSE);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("ha-respawn".to_owned()).spawn(spawn) {
            tracing::error!("cannot start another keeper: {error}");
        }
    })
}
