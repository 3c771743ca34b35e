//! The program as others see it: a shell that runs its commands, a service manager that starts and
//! stops it, and somebody who looks for secrets in all that it leaves.
//!
//! No scenario is in here, because [`secrets`] listens to all that this process logs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop where it stands")]

mod authority;
mod callers;
mod check;
mod cli;
mod completions;
mod configuration;
mod dashboard;
mod doctor;
mod kubernetes;
mod metrics;
#[path = "../scenarios/support/mirror.rs"]
mod mirror;
mod operate;
mod operators;
mod packages;
mod page;
mod reload;
mod replicas;
#[allow(dead_code, reason = "some of it is for programs that need root")]
#[path = "../clients/support/requirements.rs"]
mod requirements;
mod secrets;
mod service;
mod setup;
mod setup_addresses;
mod setup_logins;
mod tone;
mod upkeep;
mod why;
mod words;
