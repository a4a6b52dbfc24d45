//! How heartbeats are received, for scenarios that hold for either way.

/// A way of reception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reception {
    /// By the kernel side.
    Xdp,
    /// By the daemon's own socket.
    Socket,
}

impl Reception {
    /// Its name in the status, and in `receive`.
    #[must_use]
    pub fn via(self) -> &'static str {
        match self {
            Self::Xdp => "xdp-native",
            Self::Socket => "socket",
        }
    }
}

/// Makes two tests of each scenario, which is a function of its [`Reception`].
#[macro_export]
macro_rules! on_both_receptions {
    ($($name:ident,)*) => {
        mod by_xdp {
            $(#[test]
            #[ignore = "needs root: network namespaces"]
            fn $name() -> anyhow::Result<()> {
                super::$name($crate::bed::Reception::Xdp)
            })*
        }
        mod by_socket {
            $(#[test]
            #[ignore = "needs root: network namespaces"]
            fn $name() -> anyhow::Result<()> {
                super::$name($crate::bed::Reception::Socket)
            })*
        }
    };
}
