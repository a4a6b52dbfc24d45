//! Who is there where a control connection was closed: another one is tried for.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the path on which a connection closed may take to say anything.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How long a new connection in the place of one that ended stays open when its other end lives (a
/// daemon that is just ending closes it at once); and how long another path of the same peer may take to say
/// anything.
const KNOCK_WAIT: Duration = Duration::from_millis(100);
/// Most attempts to find that out.
const KNOCKS_MAX: usize = 10;

/// Who is there where a connection is tried for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// Somebody listens.
    Open,
    /// Nobody does: the kernel there refuses.
    Deserted,
    /// Nothing says so or so.
    Silent,
}

/// Tries for another connection where one was closed. A path that was cut, or who forges the end of one
/// connection, does not refuse it.
async fn knock<D>(dial: impl Fn() -> D, patience: Duration) -> Door
where
    D: Future<Output = io::Result<TcpStream>>,
{
    for _ in 0..KNOCKS_MAX {
        match timeout(patience, dial()).await {
            Ok(Ok(mut stream)) => {
                // A process that ends closes one socket after the other.
                if timeout(KNOCK_WAIT, stream.read(&mut [0])).await.is_err() {
                    return Door::Open;
                }
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Door::Deserted;
            }
            Ok(Err(_)) | Err(_) => return Door::Silent,
        }
    }
    Door::Open
}

/// Whether nobody listens any more where a connection was closed, nor on any other path of the same peer: one
/// interface that was made anew refuses as well, and its daemon lives.
pub(super) async fn is_deserted<D>(
    here: impl Fn() -> D,
    elsewhere: impl IntoIterator<Item = impl Fn() -> D>,
) -> bool
where
    D: Future<Output = io::Result<TcpStream>>,
{
    if knock(here, ANSWER_MAX).await != Door::Deserted {
        return false;
    }
    for dial in elsewhere {
        if knock(dial, KNOCK_WAIT).await == Door::Open {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;

    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test)
    }

    #[test]
    fn who_listens_is_there_and_who_is_refused_knows_that_nobody_is() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let dial = || TcpStream::connect(address);
            // Its kernel takes the connection, also while its process is stopped.
            assert_eq!(knock(dial, ANSWER_MAX).await, Door::Open);
            drop(listener);
            assert_eq!(knock(dial, ANSWER_MAX).await, Door::Deserted);
        });
    }

    #[test]
    fn a_path_that_refuses_says_nothing_while_somebody_listens_on_another() {
        run(async {
            let [gone, lives] =
                [TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await]
                    .map(Result::unwrap);
            let at = |listener: &TcpListener| listener.local_addr().unwrap();
            let (here, there) = (at(&gone), at(&lives));
            drop(gone);
            // A boxed one: these come to an end in different ways.
            let dial = |address: Option<SocketAddr>| {
                move || {
                    Box::pin(async move {
                        match address {
                            Some(address) => TcpStream::connect(address).await,
                            None => std::future::pending().await,
                        }
                    })
                }
            };
            let (here, there, cut) = (Some(here), Some(there), None);
            assert!(is_deserted(dial(here), [dial(here)]).await);
            assert!(is_deserted(dial(here), [dial(cut)]).await, "a cut path speaks for nobody");
            assert!(!is_deserted(dial(here), [dial(here), dial(there)]).await);
            drop(lives);
            assert!(is_deserted(dial(here), [dial(there), dial(here)]).await);
        });
    }

    #[test]
    fn who_closes_what_it_just_took_is_asked_again_and_not_for_ever() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            // As a process that ends: what waits to be accepted goes, and then the listener.
            let ends = tokio::spawn(async move {
                for _ in 0..3 {
                    drop(listener.accept().await.unwrap());
                }
            });
            let dial = || TcpStream::connect(address);
            assert_eq!(knock(dial, ANSWER_MAX).await, Door::Deserted);
            ends.await.unwrap();
            // As a daemon that turns strangers away.
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let refuses = tokio::spawn(async move {
                loop {
                    drop(listener.accept().await);
                }
            });
            let dial = || TcpStream::connect(address);
            assert_eq!(knock(dial, ANSWER_MAX).await, Door::Open);
            refuses.abort();
        });
    }
}
