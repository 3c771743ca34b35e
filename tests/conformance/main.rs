//! The conformance suite of the OCI distribution specification against the real daemon: its pull workflow on a
//! mirror that only reads, and pull, push and content discovery on a front that sends writes to a writable
//! registry and reads through the mirror of it. The numbers of passed, failed and skipped cases are printed.
//! Content management is not promised: a mirror keeps what was deleted upstream. Beside the suite, oras copies an
//! image with what was attached to it.
//!
//! The suite stands between its releases 1.1.0-rc.3 and 1.1.0, the newest that Go's module proxy has. Another one,
//! such as the released 1.1.1, runs from a checkout: `CONFORMANCE_SUITE=…/distribution-spec/conformance cargo test
//! --test conformance`. The registry behind is olareg, which has the referrers API. Both are built with Go, once. On a
//! machine without Go the tests say what is missing and pass; with `REGISTRY_MIRROR_REQUIRE_CLIENTS=1` that is a
//! failure.

#![allow(clippy::expect_used, reason = "a failed expectation is how a test fails")]

mod artifacts;
mod front;
mod olareg;
mod suite;
mod support;

use front::Front;
use olareg::{Image, Olareg};
use suite::{Suite, Workflow};
use support::mirror::Mirror;
use support::requirements::Missing;
use support::workspace::Workspace;

/// What every test here starts from, or nothing where this machine cannot run it.
fn programs(test: &str) -> Option<(Suite, Olareg)> {
    let mut missing = Missing::among(&["setpriv", "mount", "umount"]);
    let suite = missing.or_else(Suite::build);
    let olareg = missing.or_else(Olareg::build);
    missing.is_nothing(test).then(|| suite.zip(olareg))?
}

#[test]
fn the_pull_workflow_passes_on_a_mirror_that_only_reads() {
    let Some((suite, olareg)) = programs("conformance of the mirror alone") else { return };
    let workspace = Workspace::new();
    let image = Image::lay_down(&workspace);
    let registry = olareg.start(&workspace);
    let mirror = Mirror::start(&[("docker.io", registry.address())], &workspace);

    let report = suite.run_on(mirror.address(), &[Workflow::Pull], Some(&image), &workspace);

    let set_up = "the image is there already";
    report.assert_passed("the mirror alone", &[("Pull Setup", set_up), ("Pull Teardown", set_up)]);
}

#[test]
fn pull_push_and_content_discovery_pass_through_the_mirror() {
    let Some((suite, olareg)) = programs("conformance of reads through the mirror") else { return };
    let workspace = Workspace::new();
    let registry = olareg.start(&workspace);
    let mirror = Mirror::start(&[("docker.io", registry.address())], &workspace);
    let front = Front::start(registry.address(), mirror.address());

    let workflows = [Workflow::Pull, Workflow::Push, Workflow::ContentDiscovery];
    let report = suite.run_on(front.address(), &workflows, None, &workspace);

    let read_only = "for registries that cannot be pushed to";
    let mounting = "what this says depends on the registry behind";
    let expected_skips = [
        ("Pull Setup Get tag name from environment", read_only),
        ("Content Discovery Setup Populate registry with test tags (no push)", read_only),
        ("Push Cross-Repository Blob Mount Cross-mounting of nonexistent blob", mounting),
        ("Push Cross-Repository Blob Mount Cross-mounting without from, and automatic", mounting),
        ("mount", mounting),
        ("post cancel", mounting),
        ("delete", "a mirror keeps what was deleted upstream"),
    ];
    report.assert_passed("writes to the registry, reads through the mirror", &expected_skips);
}
