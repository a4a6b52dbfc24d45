//! The service that fails over: a real nginx per node, whose page is the node's name.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bed::Netns;
use crate::observe::http::{self, Page};
use crate::sys;

/// Where the pages are served.
pub const PORT: u16 = 80;
const START_TIME_MAX: Duration = Duration::from_secs(10);
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

/// A running nginx with one worker, on all addresses of its namespace (IPv4 and IPv6), port 80.
/// Stopped by its process id when dropped.
#[derive(Debug)]
pub struct Web {
    master: Child,
}

impl Web {
    /// Starts it in `netns`, with everything it writes below `directory`, and waits until it
    /// accepts connections.
    ///
    /// # Errors
    /// nginx is not installed (names the package), or does not come up (with its error log).
    pub fn start(netns: &Netns, directory: &Path, page: &str) -> Result<Self> {
        let pages = directory.join("pages");
        fs::create_dir_all(&pages)?;
        fs::write(pages.join("index.html"), format!("{page}\n"))?;
        fs::write(directory.join("nginx.conf"), config(directory))?;
        let master = netns
            .command(installed()?)?
            .arg("-p")
            .arg(directory)
            .arg("-c")
            .arg(directory.join("nginx.conf"))
            .arg("-e")
            .arg(directory.join("error.log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start nginx")?;
        let mut web = Self { master };
        let ready = netns.run(|| web.wait_ready());
        ready.with_context(|| {
            let log = fs::read_to_string(directory.join("error.log")).unwrap_or_default();
            format!("nginx of {page} does not come up; its error log: {log}")
        })?;
        Ok(web)
    }

    /// Process id of the master.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.master.id()
    }

    /// Gives master and worker `SCHED_FIFO` of `priority`, so that a busy machine is not measured
    /// as a silent service. Keep it below the programs under test.
    ///
    /// # Errors
    /// The kernel refuses, or does not tell the worker.
    pub fn prioritise(&self, priority: u8) -> Result<()> {
        let master = self.pid();
        let path = format!("/proc/{master}/task/{master}/children");
        let children = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        for pid in children.split_whitespace().chain([&*master.to_string()]) {
            sys::set_fifo_of(pid.parse()?, priority)
                .with_context(|| format!("nginx (process {pid}) gets no SCHED_FIFO"))?;
        }
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        loop {
            match TcpStream::connect(address) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => {}
            }
            if let Some(status) = self.master.try_wait()? {
                bail!("it ended with {status}");
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        // SIGTERM lets the master end its worker too.
        if let Ok(pid) = i32::try_from(self.master.id())
            && matches!(self.master.try_wait(), Ok(None))
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + STOP_TIME_MAX;
        while matches!(self.master.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        // Either it is gone, or it goes now; the bed ends what else lives in the namespace.
        let _ = self.master.kill();
        let _ = self.master.wait();
    }
}

/// The page at `address`, asked for once, from the namespace of the caller.
///
/// # Errors
/// It did not come, or it is no page.
pub fn fetch(address: IpAddr, time_max: Duration) -> io::Result<String> {
    let address = SocketAddr::from((address, PORT));
    let mut stream = TcpStream::connect_timeout(&address, time_max)?;
    stream.set_read_timeout(Some(time_max))?;
    stream.write_all(&http::request(address))?;
    let mut answer = Vec::new();
    stream.take(http::ANSWER_LEN_MAX as u64).read_to_end(&mut answer)?;
    match http::parse(&answer) {
        Page::Complete(page) => Ok(page.to_owned()),
        Page::Incomplete | Page::Bad => Err(io::Error::other("no page")),
    }
}

/// Where nginx is installed.
///
/// # Errors
/// It is not; names the package.
pub fn installed() -> Result<PathBuf> {
    find_program("nginx").context("nginx is not installed: apt-get install nginx-light")
}

/// Looks a program up in `PATH` and the administrator's directories, which a user's `PATH` lacks.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// Whether `program` can be run with `arguments` and exits with success.
#[must_use]
pub fn runs(program: &str, arguments: &[&str]) -> bool {
    find_program(program).is_some_and(|path| {
        Command::new(path)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// The configuration of such an nginx. The worker runs as root, since the bed's directory is closed to others.
#[must_use]
pub fn config(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_timeout 0;
    default_type text/plain;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 0.0.0.0:{PORT};
        listen [::]:{PORT} ipv6only=on;
        root {directory}/pages;
    }}
}}
"#
    )
}
