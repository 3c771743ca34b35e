//! What the kernel tells: CPU time of processes, load by others, resident memory.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Load by others above which a sample does not count, in CPUs.
pub const MAX_FOREIGN: f64 = 0.2;
/// Clock ticks of /proc/stat in a second, the same on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

/// CPU time of every thread of some processes, in nanoseconds.
#[derive(Clone, Debug, Default)]
struct Threads(HashMap<(u32, u32), u64>);

impl Threads {
    fn of(processes: &[u32]) -> Threads {
        let mut threads = HashMap::new();
        for process in processes {
            let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
            for task in tasks.flatten() {
                let time = fs::read_to_string(task.path().join("schedstat")).ok();
                let time = time.and_then(|line| line.split(' ').next()?.parse().ok());
                let id = task.file_name().to_str().and_then(|id| id.parse().ok());
                if let (Some(id), Some(time)) = (id, time) {
                    threads.insert((*process, id), time);
                }
            }
        }
        Threads(threads)
    }

    /// What they used since `before`; a thread that ended takes its last share with it.
    fn since(&self, before: &Threads) -> f64 {
        let used = self.0.iter().map(|(id, time)| time.saturating_sub(before.0.get(id).copied().unwrap_or(0)));
        used.sum::<u64>() as f64 / 1e9
    }
}

/// The stopwatch of a sample.
pub struct Watch {
    servers: Vec<u32>,
    others: Vec<u32>,
    start: Instant,
    servers_before: Threads,
    others_before: Threads,
    busy_before: f64,
}

/// What a sample cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Time passed.
    pub wall: Duration,
    /// CPU seconds of the server.
    pub server: f64,
    /// CPUs that were busy for somebody else.
    pub foreign: f64,
}

impl Watch {
    /// Starts; `helpers` are ours too but not measured, and so is this process.
    pub fn start(servers: &[u32], helpers: &[u32]) -> Watch {
        let (servers, mut others) = (servers.to_vec(), helpers.to_vec());
        others.push(std::process::id());
        Watch {
            servers_before: Threads::of(&servers),
            others_before: Threads::of(&others),
            busy_before: busy(),
            start: Instant::now(),
            servers,
            others,
        }
    }

    pub fn stop(self) -> Cost {
        let wall = self.start.elapsed();
        let server = Threads::of(&self.servers).since(&self.servers_before);
        let others = Threads::of(&self.others).since(&self.others_before);
        let foreign = (busy() - self.busy_before - server - others) / wall.as_secs_f64();
        Cost { wall, server, foreign: foreign.max(0.0) }
    }
}

/// Seconds that all CPUs together were not idle since the machine started.
fn busy() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is in user.
    [0, 1, 2, 5, 6, 7].iter().filter_map(|field| fields.get(*field)).sum::<f64>() / TICKS
}

/// Waits until others leave the machine alone, but no longer than `patience`.
pub fn wait_for_quiet(patience: Duration, processes: &[u32]) {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let watch = Watch::start(processes, &[]);
        std::thread::sleep(Duration::from_millis(150));
        if watch.stop().foreign < MAX_FOREIGN {
            return;
        }
    }
}

/// The most memory that a process ever had resident, in bytes.
pub fn peak_memory(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The congestion control of a connection on loopback, as the connection itself says.
pub fn congestion_control() -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let connection = TcpStream::connect(listener.local_addr()?)?;
    Ok(rustix::net::sockopt::tcp_congestion(&connection)?)
}

/// The first line of what a program says about its version.
pub fn version(program: &str, flag: &str) -> String {
    let Ok(output) = std::process::Command::new(program).arg(flag).output() else { return format!("{program}: none") };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}
