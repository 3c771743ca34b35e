//! What these tests share with those of the real clients.

#![allow(dead_code, reason = "the tests of the clients use the rest")]

#[path = "../clients/support/command.rs"]
pub(crate) mod command;
#[path = "../clients/support/go.rs"]
pub(crate) mod go;
#[path = "../clients/support/layout.rs"]
pub(crate) mod layout;
#[path = "../clients/support/loopback.rs"]
pub(crate) mod loopback;
#[path = "../clients/support/mirror.rs"]
pub(crate) mod mirror;
#[path = "../clients/support/process.rs"]
pub(crate) mod process;
#[path = "../clients/support/requirements.rs"]
pub(crate) mod requirements;
#[path = "../clients/support/workspace.rs"]
pub(crate) mod workspace;
