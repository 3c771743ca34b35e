//! The scripted registry of the scenarios, on its own: point any cache or client at it and see what
//! it makes of a registry that lies, stalls or breaks off.
//!
//! `cargo run --example rude_registry -- --listen 127.0.0.1:5555 --behaviour flip-last-byte --times 1`
//!
//! Image names go to stdout; every request it gets goes to stderr, without its query, which may be
//! signed. Ctrl-C ends it.

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::{Parser, ValueEnum as _};
use scripted_registry::{Registry, TokenPolicy};

mod behaviour;

use behaviour::{Behaviour, REPOSITORY, TAGS, add_images, script};

/// Serves images that it makes, and misbehaves as told.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// What to do wrong. Given several times, with --times, one takes over when the one before is used up.
    #[arg(long, value_enum)]
    behaviour: Vec<Behaviour>,
    /// How many requests each behaviour is for; all of them if left out.
    #[arg(long)]
    times: Option<usize>,
    /// Ask for anonymous tokens first.
    #[arg(long)]
    tokens: bool,
    /// Redirect blobs to a second listener with addresses that are good for one use.
    #[arg(long)]
    storage_host: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut registry = Registry::start_at(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}; is something else there?", arguments.listen))?;
    if arguments.storage_host {
        registry = registry.with_storage_host().await;
    }
    if arguments.tokens {
        registry.require_tokens(TokenPolicy::bearer());
    }
    registry.watch(|request, status| eprintln!("{status} {} {}", request.method, request.path));
    add_images(&registry);
    TAGS.iter().for_each(|tag| println!("{}/{REPOSITORY}:{tag}", registry.authority()));
    let mut others = Vec::new();
    for behaviour in &arguments.behaviour {
        others.push(script(&registry, *behaviour, arguments.times.unwrap_or(usize::MAX)).await);
    }
    eprintln!("listening on {}; {}", registry.url(), described(&arguments.behaviour));
    tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")?;
    registry.stop().await;
    Ok(())
}

fn described(behaviours: &[Behaviour]) -> String {
    if behaviours.is_empty() {
        return "honest (see --help for what else it can be)".to_owned();
    }
    let names: Vec<String> = behaviours
        .iter()
        .filter_map(|behaviour| behaviour.to_possible_value())
        .map(|value| value.get_name().to_owned())
        .collect();
    format!("rude: {}", names.join(", "))
}
