//! What is typed, and what is measured.

use std::path::PathBuf;

use clap::Parser;

/// What one client can do to the others.
#[derive(Parser)]
pub struct Arguments {
    /// The program to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_registry-mirror"))]
    pub mirror: PathBuf,
    /// Little of everything: that it runs, not what it says
    #[arg(long)]
    pub short: bool,
    /// Only works whose name contains this
    #[arg(long)]
    pub only: Option<String>,
    /// CPU of the server
    #[arg(long, default_value = "0")]
    pub server_cpu: String,
    /// Without limits for the abuser: to see the check fail
    #[arg(long)]
    pub without_limits: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// A number and what it may be.
pub struct Check {
    what: String,
    value: f64,
    most: f64,
    unit: &'static str,
}

impl Check {
    pub fn new(what: impl Into<String>, value: f64, most: f64, unit: &'static str) -> Check {
        Check { what: what.into(), value, most, unit }
    }

    pub fn holds(&self) -> bool {
        self.value <= self.most
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Check { what, value, most, unit } = self;
        let missed = if self.holds() { "" } else { "missed" };
        write!(f, "| {what} | {value:.2}{unit} | {most:.2}{unit} | {missed} |")
    }
}
