//! Each client's pulls through HAProxy from replicas over one bucket, which give the blobs themselves or send the client
//! to the store for them.

use crate::containerd::Containerd;
use crate::docker::Docker;
use crate::podman::Podman;
use crate::support::fleet::{Fleet, Grounds, Way, missing};
use crate::support::workspace::Workspace;

#[test]
fn dockerd_pulls_from_every_replica_proxied_and_redirected() {
    if !missing(&["dockerd", "docker", "containerd", "runc", "iptables"]).is_nothing("dockerd and replicas") {
        return;
    }
    for way in Way::BOTH {
        let (grounds, workspace) = (Grounds::new(), Workspace::new());
        let mut fleet = Fleet::start(way, &grounds);
        let mut docker = Docker::start(fleet.address(), &workspace);
        fleet.pull_cold_warm_and_from_all(&mut docker);
    }
}

#[test]
fn containerd_pulls_from_every_replica_proxied_and_redirected() {
    if !missing(&["containerd", "ctr"]).is_nothing("containerd and replicas") {
        return;
    }
    for way in Way::BOTH {
        let (grounds, workspace) = (Grounds::new(), Workspace::new());
        let mut fleet = Fleet::start(way, &grounds);
        let mut containerd = Containerd::start(fleet.address(), &workspace);
        fleet.pull_cold_warm_and_from_all(&mut containerd);
    }
}

#[test]
fn podman_pulls_from_every_replica_proxied_and_redirected() {
    if !missing(&["podman", "conmon", "runc"]).is_nothing("podman and replicas") {
        return;
    }
    for way in Way::BOTH {
        let (grounds, workspace) = (Grounds::new(), Workspace::new());
        let mut fleet = Fleet::start(way, &grounds);
        let mut podman = Podman::configure(fleet.address(), &workspace);
        fleet.pull_cold_warm_and_from_all(&mut podman);
    }
}
