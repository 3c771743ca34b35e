//! registry-mirror: a pull-through caching mirror for container registries.
//!
//! # Layers, from the bottom
//!
//! | layer | modules | may use |
//! |---|---|---|
//! | 0 vocabulary | [`oci`], [`outcome`], [`documents`]; [`clients`], what each may have; [`plain`], text for terminals | nothing that does I/O |
//! | 1 below the ports | [`owed`], what has to go up into the bucket | nothing of ours |
//! | 1 ports and their adapters | [`clock`], [`metadata`], [`blob_store`], [`upstream`] | the vocabulary; each adapter the one crate it wraps |
//! | 1 below the ports | [`small_file`], one that is read; [`staged`], one that is replaced as a whole | nothing of ours |
//! | 1 the bucket | [`tier`], behind the local store; held like a port | the vocabulary, [`clock`], [`metadata`], [`blob_store`], [`owed`] |
//! | 2 what both use cases need | [`graph`], what images lead to | ports, never adapters |
//! | 2 who may read what | [`access`], decisions and the permits that come of them | the vocabulary, [`metadata`] |
//! | 2 use cases | [`mirror`]; [`bundle`], which carries images offline | ports, never adapters |
//! | 2 what is wrong | [`doctor`], which judges facts | the vocabulary, [`upstream`] |
//! | 3 edges | [`server`], which finds out who asks; [`admin`] | `access`, `mirror` |
//! | 4 the wiring | [`daemon`] | everything, without logic |
//! | 5 what is typed | [`cli`], and `main` | `daemon`, `config`, `setup`, the vocabulary, never `mirror` |
//! | beside them | [`metrics`], which all may count with; [`telemetry`], the log; [`audit`], who got what; [`usage`], what it was good for; [`config`]; [`setup`], what clients' files say; [`setting_file`], what the settings name; [`systemd`]; [`confine`], where it may write | the vocabulary |
//!
//! # The four flows of a request
//!
//! A request is parsed once into a closed [`oci::Request`] and routed to an upstream by
//! [`mirror::routes`]. [`server::admission`] finds out who asks, and [`access`] gives a permit, without which
//! there is no [`mirror::Route`]. Then:
//!
//! - **Hit.** [`blob_store::BlobStore::open`], and the file goes to the client.
//! - **Cold miss.** [`mirror::flight`] gives the lead. A [`mirror::fill`] runs as a task of its own:
//!   upstream, [`blob_store::ingest`], verify, commit, record. The client reads along. In the daemon, fills and the
//!   connections that feed them are carried by threads of their own ([`carrier`]), and what is read from a bucket or
//!   another replica by others: hits never wait behind them.
//! - **Joiner.** Everybody else reads the growing file through [`mirror::answer::reader`], at their own pace.
//!   The last 64 KiB are held back until the digest is verified.
//! - **Tag.** [`mirror::recall::freshness`] decides whether upstream is asked, and whether what is remembered
//!   may stand in when upstream cannot answer.
//!
//! Every answer carries one [`outcome::Outcome`]: in the log line, the metric and the
//! `Cache-Status` header.

pub mod access;
pub mod admin;
pub mod audit;
pub mod blob_store;
pub mod bundle;
pub mod carrier;
pub mod cli;
pub mod clients;
pub mod clock;
pub mod config;
pub mod confine;
pub mod daemon;
pub mod doctor;
pub mod documents;
pub mod graph;
pub mod metadata;
pub mod metrics;
pub mod mirror;
pub mod oci;
pub mod outcome;
pub mod owed;
pub mod plain;
pub mod server;
pub mod setting_file;
pub mod setup;
pub mod small_file;
pub mod staged;
pub mod systemd;
pub mod telemetry;
pub mod tier;
pub mod upstream;
pub mod usage;
