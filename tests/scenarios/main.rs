//! Scenarios: a scripted registry on one side, a raw client on the other, the mirror in between.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod bad_upstream;
mod bench_command;
mod budget;
mod bundles;
mod bundles_live;
mod damage;
mod delivery;
mod documents;
mod hits;
mod joiners;
mod kept_lists;
mod listener;
mod memory;
mod offline;
mod operate_api;
mod parallel;
mod prefetch;
mod registry_selftest;
mod replays;
mod rotten_manifests;
mod setups;
mod slow_index;
mod support;
mod tag_history;
mod tags;
mod tls;
mod traps;
mod trouble;
mod upstream_budget;
mod upstream_health;
mod upstream_limits;
mod upstream_oddities;
