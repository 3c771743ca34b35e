//! Real pulls: a docker daemon of our own pulls the image of ten layers through each server.
//!
//! What is compared is the CPU time of the server and the time of the whole pull, in which the
//! daemon's unpacking has the largest share whoever serves.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::bench::Bench;
use super::images::{REPOSITORY, TAG};
use super::machine::Watch;
use super::rounds::{median, spread};
use super::servers::Server;

const PATIENCE: Duration = Duration::from_secs(60);

/// A docker daemon with everything in a folder of its own.
struct Docker {
    socket: PathBuf,
    child: Child,
}

impl Docker {
    fn start(folder: &Path, cpu: &str) -> io::Result<Docker> {
        let folder = folder.join("docker");
        fs::create_dir_all(&folder)?;
        let socket = folder.join("socket");
        let log = fs::File::create(folder.join("log"))?;
        let mut command = Command::new("taskset");
        command.args(["-c", cpu, "dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false"]);
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(flag).arg(folder.join(name));
        }
        command.arg("-H").arg(format!("unix://{}", socket.display()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut docker = Docker { socket, child: command.spawn()? };
        let deadline = Instant::now() + PATIENCE;
        while docker.run(&["version"]).is_err() {
            if Instant::now() > deadline || docker.child.try_wait()?.is_some() {
                let said = fs::read_to_string(folder.join("log")).unwrap_or_default();
                let last: Vec<&str> = said.lines().rev().take(3).collect();
                return Err(io::Error::other(format!("dockerd does not start: {last:?}")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(docker)
    }

    fn run(&self, arguments: &[&str]) -> io::Result<()> {
        let output = Command::new("docker")
            .arg("-H")
            .arg(format!("unix://{}", self.socket.display()))
            .args(arguments)
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Pulls and forgets. Gives the time of the pull and the CPU seconds of the server.
    fn pull(&self, server: u32, address: SocketAddr) -> io::Result<(f64, f64)> {
        let image = format!("{address}/{REPOSITORY}:{TAG}");
        let watch = Watch::start(&[server], &[]);
        self.run(&["pull", "-q", &image])?;
        let cost = watch.stop();
        self.run(&["rmi", &image])?;
        Ok((cost.wall.as_secs_f64(), cost.server))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

pub fn pulls(bench: &Bench) -> io::Result<String> {
    eprintln!("- docker pull");
    let docker = Docker::start(&bench.workshop.folder, &bench.workshop.client_cpu)?;
    let ours = bench.workshop.mirror(bench.upstream.address)?;
    let theirs = bench.workshop.docker_registry(&bench.images, None)?;
    let pull = |server: &Server| docker.pull(server.process(), server.address);
    for server in [&ours, &theirs] {
        pull(server)?;
    }
    let (mut times, mut costs, mut our_costs, mut their_costs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.effort.rounds {
        let ((our_time, our_cost), (their_time, their_cost)) = (pull(&ours)?, pull(&theirs)?);
        times.push(their_time / our_time);
        costs.push(their_cost / our_cost);
        our_costs.push(our_cost);
        their_costs.push(their_cost);
    }
    let work = "docker pull of 10 layers, warm";
    Ok(format!(
        "| {work}: speed of the whole pull | registry-mirror : docker-registry | {} | | | |\n\
         | {work}: pulls per CPU second of the server | registry-mirror : docker-registry | {} | {:.1} ms | {:.1} ms | |\n",
        spread(&times),
        spread(&costs),
        median(our_costs) * 1e3,
        median(their_costs) * 1e3
    ))
}
