//! Files of every kind, as others wrote them, with our settings and without them again. It is long because there are
//! many kinds, and all of them are held to the same promises.

use super::*;

fn settings(mirror: &str, registries: &[&str]) -> Settings {
    let registries = registries.iter().map(|registry| registry.parse().expect("a registry")).collect();
    Settings {
        mirror: mirror.parse().expect("an address"),
        registries,
        default: None,
        own: Vec::new(),
        authority: None,
    }
}

fn local() -> Settings {
    settings("http://127.0.0.1:5000", &["docker.io"])
}

fn hub() -> RegistryName {
    DOCKER_HUB.parse().expect("a registry")
}

fn merged(kind: &Kind, before: Option<&str>) -> String {
    kind.merged(&local(), before, &[]).unwrap_or_else(|refused| panic!("{kind:?}: {refused}"))
}

/// With ours, with ours a second time, and without them again, where others have added something meanwhile.
fn there_and_back(kind: &Kind, before: Option<&str>, expected: &str, others: (&str, &str), left: Option<&str>) {
    let with = merged(kind, before);
    assert_eq!(with, expected, "{kind:?}");
    assert_eq!(merged(kind, Some(&with)), with, "{kind:?}: a second time");
    let (old, new) = others;
    assert!(with.contains(old), "{kind:?}: {old:?} is in {with}");
    let changed = with.replacen(old, new, 1);
    let without = kind.without(&local(), before, &changed);
    assert_eq!(without.as_ref().map(Option::as_deref), Ok(left), "{kind:?}: without ours\n{changed}");
}

#[test]
fn what_ours_would_put_an_end_to_is_left_alone() {
    let text = |path: &str| Ok((path == "etc/containerd/certs.d/_default/hosts.toml").then(String::new));
    let machine = Machine { text: &text, ..Machine::default() };
    let refused = files(Client::Containerd, &local(), &machine).expect_err("it is read for docker.io").to_string();
    assert!(
        refused.starts_with("/etc/containerd/certs.d/docker.io/hosts.toml: ") && refused.contains("_default"),
        "{refused}"
    );
    let names = |folder: &str| {
        let ours = folder.ends_with("certs.d/docker.io").then(|| vec!["ca.crt".to_owned()]);
        Ok(ours.unwrap_or_default())
    };
    let machine = Machine { names: &names, ..Machine::default() };
    let refused = files(Client::Containerd, &local(), &machine).expect_err("it is read for docker.io").to_string();
    assert!(refused.contains("ca.crt") && refused.contains("server = \"https://docker.io\""), "{refused}");
    let docker = Machine { docker_store: Store::Containerd, names: &names, ..Machine::default() };
    assert!(files(Client::Docker, &local(), &docker).is_err());
    // Where there is a file already, it says what counts.
    let text = |path: &str| Ok((path == "etc/containerd/certs.d/docker.io/hosts.toml").then(String::new));
    let machine = Machine { text: &text, names: &names, ..Machine::default() };
    assert!(files(Client::Containerd, &local(), &machine).is_ok());
    let text = |path: &str| {
        let named = "{\"registry-mirrors\": [\"http://127.0.0.1:5000/\", \"https://other.example\"]}";
        Ok((path == DAEMON_JSON).then(|| named.to_owned()))
    };
    let docker = Machine { docker_store: Store::Containerd, text: &text, ..Machine::default() };
    let refused = files(Client::Docker, &local(), &docker).expect_err("it is asked now").to_string();
    assert!(refused.starts_with("/etc/docker/certs.d/docker.io/hosts.toml: "), "{refused}");
    assert!(refused.contains("https://other.example") && refused.contains("registry-mirrors"), "{refused}");
    assert!(
        files(Client::Docker, &settings("http://127.0.0.1:5000", &["ghcr.io"]), &docker).is_ok(),
        "it is not asked"
    );
    let text = |path: &str| {
        let ours = "{\"registry-mirrors\": [\"http://127.0.0.1:5000/\"]}";
        Ok((path == DAEMON_JSON).then(|| ours.to_owned()))
    };
    assert!(files(Client::Docker, &local(), &Machine { text: &text, ..docker }).is_ok(), "it is ours");
    let k3s = |text: &str| Kind::RegistriesYaml.merged(&local(), Some(text), &[]);
    assert!(k3s("mirrors:\n  \"*\":\n    endpoint: [\"https://other.example\"]\n").is_err());
    assert!(k3s("mirrors:\n  \"*\":\n    endpoint: [\"http://127.0.0.1:5000\"]\n").is_ok());
    assert!(k3s("mirrors:\n  \"*\":\n    endpoint: [\"https://o.example\"]\n  docker.io:\n    endpoint: []\n").is_ok());
}

#[test]
fn docker_gets_a_list_of_mirrors_and_keeps_what_it_was_told() {
    let before = "{\n    \"log-driver\": \"journald\",\n    \"debug\" : true\n}";
    there_and_back(
        &Kind::DaemonJson,
        Some(before),
        "{\n    \"log-driver\": \"journald\",\n    \"debug\" : true,\n    \"registry-mirrors\": [\n        \
         \"http://127.0.0.1:5000\"\n    ]\n}",
        ("true", "false"),
        Some("{\n    \"log-driver\": \"journald\",\n    \"debug\" : false\n}"),
    );
    let before = "{ \"registry-mirrors\": [\"https://other.example\"], \"x\": {\"y\": [1, 2.50]} }\n";
    there_and_back(
        &Kind::DaemonJson,
        Some(before),
        "{ \"registry-mirrors\": [\"http://127.0.0.1:5000\", \"https://other.example\"], \"x\": {\"y\": [1, 2.50]} }\n",
        ("2.50", "3"),
        Some("{ \"registry-mirrors\": [\"https://other.example\"], \"x\": {\"y\": [1, 3]} }\n"),
    );
    let before = "{\n\t\"registry-mirrors\": [\n\t\t\"https://other.example\"\n\t]\n}\n";
    there_and_back(
        &Kind::DaemonJson,
        Some(before),
        "{\n\t\"registry-mirrors\": [\n\t\t\"http://127.0.0.1:5000\",\n\t\t\"https://other.example\"\n\t]\n}\n",
        ("other.example\"", "other.example\",\n\t\t\"https://third.example\""),
        Some("{\n\t\"registry-mirrors\": [\n\t\t\"https://other.example\",\n\t\t\"https://third.example\"\n\t]\n}\n"),
    );
    let new = "{\n  \"registry-mirrors\": [\n    \"http://127.0.0.1:5000\"\n  ]\n}\n";
    for before in [None, Some(""), Some("{}"), Some(" \n")] {
        assert_eq!(merged(&Kind::DaemonJson, before).trim_end(), new.trim_end(), "{before:?}");
    }
    there_and_back(&Kind::DaemonJson, None, new, ("", ""), None);
    there_and_back(&Kind::DaemonJson, None, new, ("\n}", ",\n  \"debug\": true\n}"), Some("{\n  \"debug\": true\n}\n"));
}

#[test]
fn a_mirror_that_was_there_before_is_ours_neither_to_add_nor_to_take() {
    let before = "{\"registry-mirrors\": [\"https://a.example\", \"http://127.0.0.1:5000/\"]}";
    assert_eq!(merged(&Kind::DaemonJson, Some(before)), before);
    assert_eq!(Kind::DaemonJson.without(&local(), Some(before), before), Ok(Some(before.to_owned())));
}

#[test]
fn docker_speaks_plain_http_beyond_loopback_only_where_it_is_told_to() {
    let beyond = settings("http://mirror.example:5000", &["docker.io"]);
    let with = Kind::DaemonJson.merged(&beyond, Some("{}"), &[]).expect("merged");
    assert!(with.contains("\"insecure-registries\": [\n    \"mirror.example:5000\"\n  ]"), "{with}");
    let encrypted = settings("https://mirror.example", &["docker.io"]);
    let with = Kind::DaemonJson.merged(&encrypted, None, &[]).expect("merged");
    assert!(!with.contains("insecure"), "{with}");
}

/// What the engine says is as in moby's daemon/info_unix.go and daemon/containerd/service.go; which of them reads the
/// hosts folder, as in its daemon/hosts.go.
#[test]
fn which_store_docker_has_is_told_by_the_engine_else_by_its_file() {
    let snapshots = "[[\"driver-type\",\"io.containerd.snapshotter.v1\"]]";
    let feature = "{\"features\": {\"containerd-snapshotter\": true}}";
    for (engine, file, expected) in [
        (Some(("28.0.1", snapshots)), None, Store::Containerd),
        (Some(("27.5.0", snapshots)), Some(feature), Store::Classic),
        (Some(("29.1.0", "[[\"Backing Filesystem\",\"extfs\"]]")), Some(feature), Store::Classic),
        (None, Some(feature), Store::Containerd),
        (None, Some("{\"features\": {}}"), Store::Classic),
        (None, None, Store::Classic),
    ] {
        assert_eq!(store_of(engine, file), expected, "{engine:?} {file:?}");
    }
    let machine = |docker_store| Machine { docker_store, ..Machine::default() };
    let both = settings("http://127.0.0.1:5000", &["docker.io", "ghcr.io"]);
    assert!(matches!(files(Client::Docker, &both, &machine(Store::Classic)), Err(Refused::Unable(_))));
    let listener = |default: &str| Settings { default: default.parse().ok(), ..local() };
    let refused =
        files(Client::Docker, &listener("ghcr.io"), &Machine::default()).expect_err("it would get images of ghcr.io");
    assert!(
        matches!(&refused, Refused::Unable(why) if why.contains("ghcr.io") && why.contains("=docker.io")),
        "{refused}"
    );
    assert!(files(Client::Docker, &listener("docker.io"), &Machine::default()).is_ok());
    let paths: Vec<_> = files(Client::Docker, &both, &machine(Store::Containerd)).expect("files");
    let paths: Vec<_> = paths.into_iter().map(|file| file.path).collect();
    assert_eq!(paths, ["etc/docker/certs.d/docker.io/hosts.toml", "etc/docker/certs.d/ghcr.io/hosts.toml"]);
}

#[test]
fn the_mirror_is_the_first_host_of_a_registry() {
    let kind = Kind::HostsToml(hub());
    let new = format!("{HEADER}[host.\"http://127.0.0.1:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
    there_and_back(&kind, None, &new, ("", ""), None);
    let before = "server = \"https://registry-1.docker.io\" # the Hub\n\n# in the office\n[host.\"https://office.example\"]\n  \
                  capabilities = [\"pull\"]\n  # ours\n  ca = \"/etc/ca.pem\"\n# the end\n";
    there_and_back(
        &kind,
        Some(before),
        "server = \"https://registry-1.docker.io\" # the Hub\n\n[host.\"http://127.0.0.1:5000\"]\ncapabilities = \
         [\"pull\", \"resolve\"]\n\n# in the office\n[host.\"https://office.example\"]\n  capabilities = [\"pull\"]\n  # \
         ours\n  ca = \"/etc/ca.pem\"\n# the end\n",
        ("/etc/ca.pem", "/etc/other.pem"),
        Some(
            "server = \"https://registry-1.docker.io\" # the Hub\n\n# in the office\n[host.\"https://office.example\"]\n  \
             capabilities = [\"pull\"]\n  # ours\n  ca = \"/etc/other.pem\"\n# the end\n",
        ),
    );
}

/// The tables are those of containerd's docs/cri/config.md, for 1.x and 2.x; the first file is Debian's.
#[test]
fn containerd_is_told_where_the_hosts_are_in_the_table_of_its_version() {
    let debian = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    \
                  [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\"\n";
    there_and_back(
        &Kind::ContainerdConfig,
        Some(debian),
        &format!(
            "{debian}\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n"
        ),
        ("/usr/lib/cni", "/opt/cni"),
        Some(&debian.replace("/usr/lib/cni", "/opt/cni")),
    );
    for (before, table) in [
        ("version = 3\n", "plugins.\"io.containerd.cri.v1.images\".registry"),
        ("root = \"/x\"\n", "plugins.cri.registry"),
    ] {
        let with = merged(&Kind::ContainerdConfig, Some(before));
        assert_eq!(with, format!("{before}\n[{table}]\nconfig_path = \"/etc/containerd/certs.d\"\n"));
    }
    let new = merged(&Kind::ContainerdConfig, None);
    assert!(new.contains("version = 2\n") && new.contains("io.containerd.grpc.v1.cri"), "{new}");
}

#[test]
fn what_stands_commented_at_the_end_of_a_file_does_not_get_into_our_table() {
    let before = "disabled_plugins = [\"cri\"]\n\n#root = \"/var/lib/containerd\"\n#[grpc]\n#  uid = 0\n";
    let with = merged(&Kind::ContainerdConfig, Some(before));
    assert_eq!(with, format!("{before}\n[plugins.cri.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n"));
    let changed = with.replace("[\"cri\"]", "[]");
    let without = Kind::ContainerdConfig.without(&local(), Some(before), &changed);
    assert_eq!(without, Ok(Some(before.replace("[\"cri\"]", "[]"))));
}

#[test]
fn hosts_of_containerd_go_where_its_file_says_and_beside_mirrors_in_it_they_are_refused() {
    let named = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/opt/hosts:/etc/x\"\n";
    assert_eq!(merged(&Kind::ContainerdConfig, Some(named)), named);
    let own = |path: &str| Ok((path == CONTAINERD_CONFIG).then(|| named.to_owned()));
    let machine = Machine { text: &own, ..Machine::default() };
    let files = files(Client::Containerd, &local(), &machine).expect("files");
    assert_eq!(files[1].path, "opt/hosts/docker.io/hosts.toml");
    let mirrors =
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = [\"x\"]\n";
    let refused = Kind::ContainerdConfig.merged(&local(), Some(mirrors), &[]);
    assert!(matches!(refused, Err(Refused::Conflict(_))), "{refused:?}");
    let other = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = 5\n";
    for text in ["version = 9\n", other] {
        let refused = Kind::ContainerdConfig.merged(&local(), Some(text), &[]);
        assert!(matches!(refused, Err(Refused::Conflict(_))), "{refused:?}");
    }
}

#[test]
fn what_containerd_imports_has_the_last_word_on_where_the_hosts_are() {
    let own = "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n";
    let table = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n";
    let imported = format!("{table}config_path = \"/srv/z\"\n");
    let text = |path: &str| {
        Ok(match path {
            CONTAINERD_CONFIG => Some(own.to_owned()),
            "etc/containerd/conf.d/a.toml" => Some(imported.clone()),
            _ => None,
        })
    };
    let names = |_: &str| Ok(vec!["a.toml".to_owned(), "b.conf".to_owned()]);
    let machine = Machine { text: &text, names: &names, ..Machine::default() };
    let files = files(Client::Containerd, &local(), &machine).expect("files");
    assert_eq!(files[1].path, "srv/z/docker.io/hosts.toml");
    let beside = beside(Client::Containerd, &machine).expect("files");
    assert_eq!(Kind::ContainerdConfig.merged(&local(), Some(own), &beside).as_deref(), Ok(own));
}

#[test]
fn a_host_of_containerd_to_which_others_added_is_not_left_with_more_than_we_gave_it() {
    let with = merged(&Kind::HostsToml(hub()), None);
    let changed = format!("{with}skip_verify = true\n");
    let without = Kind::HostsToml(hub()).without(&local(), None, &changed);
    assert!(matches!(without, Err(Refused::Mixed(_))), "{without:?}");
}

#[test]
fn lines_end_as_they_did_and_a_mark_in_front_stays() {
    for (kind, before) in [
        (Kind::DaemonJson, "\u{feff}{\r\n  \"debug\": true\r\n}\r\n"),
        (Kind::ContainerdConfig, "version = 2\r\n# ours\r\nroot = \"/x\"\r\n"),
        (Kind::RegistriesYaml, "configs:\r\n  x:\r\n    y: 1\r\n"),
        (Kind::BuildkitdToml, "debug = true\r\n"),
    ] {
        let with = merged(&kind, Some(before));
        assert_eq!(with.matches('\n').count(), with.matches("\r\n").count(), "{kind:?}: {with:?}");
        assert!(
            with.starts_with(&before[..7]) && with.contains("5000") | with.contains("certs.d"),
            "{kind:?}: {with:?}"
        );
        let changed = format!("{with}\r\n");
        let without = kind.without(&local(), Some(before), &changed).expect("told apart").expect("something");
        assert_eq!(without.trim_end(), before.trim_end(), "{kind:?}");
        assert_eq!(without.matches('\n').count(), without.matches("\r\n").count(), "{kind:?}");
    }
}

#[test]
fn buildkit_gets_the_mirror_in_front_and_plain_http_for_it() {
    let ours =
        "[registry.\"docker.io\"]\nmirrors = [\"127.0.0.1:5000\"]\n\n[registry.\"127.0.0.1:5000\"]\nhttp = true\n";
    there_and_back(&Kind::BuildkitdToml, None, &format!("{HEADER}{ours}"), ("", ""), None);
    let before = "debug = true # while we look\n\n[registry.\"docker.io\"]\n  mirrors = [\n    # near\n    \
                  \"near.example\",\n  ]\n\n[worker.oci]\n  enabled = false\n";
    there_and_back(
        &Kind::BuildkitdToml,
        Some(before),
        "debug = true # while we look\n\n[registry.\"docker.io\"]\n  mirrors = [\n    \"127.0.0.1:5000\",\n    # near\n    \
         \"near.example\",\n  ]\n\n[worker.oci]\n  enabled = false\n\n[registry.\"127.0.0.1:5000\"]\nhttp = true\n",
        ("enabled = false", "enabled = true"),
        Some(&before.replace("enabled = false", "enabled = true")),
    );
}

#[test]
fn what_others_made_of_our_own_setting_is_not_guessed_at() {
    let before = "[registry.\"127.0.0.1:5000\"]\nhttp = false\n";
    let with = merged(&Kind::BuildkitdToml, Some(before));
    assert!(with.contains("http = true"), "{with}");
    let changed = with.replace("http = true", "http = \"maybe\"");
    let without = Kind::BuildkitdToml.without(&local(), Some(before), &changed);
    assert!(matches!(without, Err(Refused::Mixed(_))), "{without:?}");
    let back = with.replace("http = true", "http = false");
    let without = Kind::BuildkitdToml.without(&local(), Some(before), &back).expect("told apart");
    assert_eq!(without.as_deref(), Some(before));
}

/// The keys, and which file counts, are as in containers-registries.conf(5) and containers-registries.conf.d(5).
#[test]
fn podman_gets_a_file_of_its_own_that_says_what_the_others_said() {
    let new = format!(
        "{HEADER}[[registry]]\nlocation = \"docker.io\"\n\n[[registry.mirror]]\nlocation = \"127.0.0.1:5000/docker.io\"\ninsecure = \
         true\n"
    );
    there_and_back(&Kind::RegistriesConf, None, &new, ("", ""), None);
    there_and_back(
        &Kind::RegistriesConf,
        None,
        &new,
        ("insecure = true\n", "insecure = true\n\n[[registry.mirror]]\nlocation = \"other.example\"\n"),
        Some("[[registry]]\nlocation = \"docker.io\"\n\n[[registry.mirror]]\nlocation = \"other.example\"\n"),
    );
    let with = merged(&Kind::RegistriesConf, None);
    for (ours, theirs) in [
        ("insecure = true", "insecure = false"),
        ("insecure = true", "insecure = true\npull-from-mirror = \"digest-only\""),
        ("insecure = true\n", ""),
    ] {
        let without = Kind::RegistriesConf.without(&local(), None, &with.replace(ours, theirs));
        assert!(matches!(without, Err(Refused::Mixed(_))), "{theirs}: {without:?}");
    }
    let commented = with.replace("insecure = true", "insecure = true # of ours");
    assert!(Kind::RegistriesConf.without(&local(), None, &commented).is_ok());
    // Entries may stand in a line.
    let ours =
        "registry = [{ location = \"docker.io\", mirror = [{ location = \"127.0.0.1:5000/docker.io\" }] }] # x\n";
    let merged = |text: &str| Kind::RegistriesConf.merged(&local(), Some(text), &[]);
    assert_eq!(merged(ours).as_deref(), Ok(ours), "it says so already");
    let refused = merged(&ours.replace("docker.io", "ghcr.io")).expect_err("its comment would be lost");
    assert!(refused.to_string().contains("comments would be lost"), "{refused}");
    let others = "registry = [{ location = \"ghcr.io\" }]\n";
    let expected = new.replace(HEADER, "[[registry]]\nlocation = \"ghcr.io\"\n\n");
    assert_eq!(merged(others).expect("merged"), expected);
    let earlier = "unqualified-search-registries = [\"docker.io\"]\n[[registry]]\nprefix = \"docker.io\"\nlocation = \
                   \"hub.example\"\n[[registry.mirror]]\nlocation = \"near.example\"\n";
    let beside = |text: &str, is_later| [Beside { path: "etc/x.conf".to_owned(), text: text.to_owned(), is_later }];
    let with = Kind::RegistriesConf.merged(&local(), None, &beside(earlier, false)).expect("merged");
    let expected = "[[registry]]\nprefix = \"docker.io\"\nlocation = \"hub.example\"\n\n[[registry.mirror]]\nlocation = \
                    \"127.0.0.1:5000/docker.io\"\ninsecure = true\n\n[[registry.mirror]]\nlocation = \"near.example\"\n";
    assert_eq!(with, format!("{HEADER}{expected}"));
    let blocked = "[[registry]]\nlocation = \"docker.io\"\nblocked = true\n";
    for (text, is_later, why) in [
        (blocked, false, "/etc/x.conf: docker.io is blocked"),
        (blocked, true, "/etc/x.conf: it is read after"),
        (earlier, true, "/etc/x.conf: it is read after"),
        ("[[x", false, "/etc/x.conf: cannot be read"),
        ("[[x", true, "/etc/x.conf: cannot be read"),
    ] {
        let refused = Kind::RegistriesConf.merged(&local(), None, &beside(text, is_later)).expect_err(text);
        assert!(refused.to_string().starts_with(why), "{refused}");
    }
    assert!(Kind::RegistriesConf.merged(&local(), None, &beside(&with, true)).is_ok(), "it says the same");
    let both = settings("https://mirror.example", &["docker.io", "ghcr.io"]);
    let with = Kind::RegistriesConf.merged(&both, None, &[]).expect("merged");
    assert!(with.contains("location = \"mirror.example/ghcr.io\"\n") && !with.contains("insecure"), "{with}");
}

/// A name is as distribution/reference has it: a port stands in front of the first slash only.
#[test]
fn no_client_is_given_a_name_in_which_a_port_stands_behind_a_slash() {
    let mut told = settings("http://127.0.0.1:5000", &["reg.example:5005"]);
    for client in [Client::Podman, Client::CriO, Client::Docker] {
        let refused = files(client, &told, &Machine::default());
        assert!(matches!(&refused, Err(Refused::Unable(why)) if why.contains("=reg.example:5005")), "{refused:?}");
    }
    for client in [Client::Kaniko, Client::CloudFoundry, Client::Crane] {
        let steps = steps(client, &told);
        assert!(
            steps.iter().any(|step| step.starts_with("# no image is named 127.0.0.1:5000/reg.example:5005")),
            "{steps:?}"
        );
    }
    // These say beside the name of which registry it is.
    for client in [Client::Containerd, Client::Buildkit, Client::K3s, Client::Rke2] {
        assert!(files(client, &told, &Machine::default()).is_ok(), "{client:?}");
    }
    told.default = "reg.example:5005".parse().ok();
    let (file, text) = written(Client::Podman, &told).expect("files").remove(0);
    assert!(text.contains("location = \"127.0.0.1:5000\"\n"), "{file:?} {text}");
    let refused = files(Client::Docker, &told, &Machine::default()).expect_err("it asks for Docker Hub's").to_string();
    assert!(refused.ends_with("name them as 127.0.0.1:5000/NAME"), "{refused}");
    for (client, step) in [
        (Client::Kaniko, "--registry-map=reg.example:5005=127.0.0.1:5000"),
        (Client::CloudFoundry, "cf push APP -o 127.0.0.1:5000/REPOSITORY:TAG"),
        (Client::Crane, "127.0.0.1:5000/REPOSITORY:TAG in the place of reg.example:5005/REPOSITORY:TAG"),
    ] {
        assert_eq!(steps(client, &told)[0], step);
    }
}

/// The keys are those of k3s' documentation, "Private Registry Configuration".
#[test]
fn k3s_gets_an_endpoint_in_front_on_a_line_of_its_own() {
    let ours = "mirrors:\n  docker.io:\n    endpoint:\n      - \"http://127.0.0.1:5000\"\n";
    let here = |before: &str, expected: &str, others: (&str, &str)| {
        let left = before.replacen(others.0, others.1, 1);
        there_and_back(&Kind::RegistriesYaml, Some(before), expected, others, Some(&left));
    };
    there_and_back(&Kind::RegistriesYaml, None, &format!("{HEADER}{ours}"), ("", ""), None);
    here("", ours, ("", ""));
    here("# größe\n", &format!("# größe\n{ours}"), ("größe", "größen"));
    let configs = "configs: # who we are\n  \"reg.example:5000\":\n    auth:\n      username: me # x\n";
    here(configs, &format!("{configs}{ours}"), ("me #", "you #"));
    here(
        "mirrors:\n    # the office\n    ghcr.io:\n        endpoint:\n            - https://office.example # near\nconfigs:\n",
        "mirrors:\n    # the office\n    docker.io:\n      endpoint:\n        - \"http://127.0.0.1:5000\"\n    \
         ghcr.io:\n        endpoint:\n            - https://office.example # near\nconfigs:\n",
        ("# near", "# far"),
    );
    here(
        "mirrors:\n  docker.io:\n    endpoint: # in turn\n    # first\n    - https://a.example\n    - 'https://b.example' # b\n",
        "mirrors:\n  docker.io:\n    endpoint: # in turn\n    # first\n    - \"http://127.0.0.1:5000\"\n    - \
         https://a.example\n    - 'https://b.example' # b\n",
        ("# b\n", "# c\n"),
    );
    here(
        "mirrors:\n  docker.io:\n    endpoint: [\"https://a.example\"] # x\n",
        "mirrors:\n  docker.io:\n    endpoint: [\"http://127.0.0.1:5000\", \"https://a.example\"] # x\n",
        ("# x", "# y"),
    );
    here(
        "mirrors:\n  docker.io: # nothing yet\nconfigs:\n  x:\n    y: 1\n",
        "mirrors:\n  docker.io: # nothing yet\n    endpoint:\n      - \"http://127.0.0.1:5000\"\nconfigs:\n  x:\n    y: 1\n",
        ("y: 1", "y: 2"),
    );
    let known = "mirrors: {docker.io: {endpoint: [\"http://127.0.0.1:5000/\"]}}\n";
    assert_eq!(merged(&Kind::RegistriesYaml, Some(known)), known);
    let both = settings("http://127.0.0.1:5000", &["docker.io", "reg.example:5000"]);
    let with = Kind::RegistriesYaml.merged(&both, Some(""), &[]).expect("merged");
    assert!(with.contains("\n  \"reg.example:5000\":\n"), "{with}");
    assert_eq!(Kind::RegistriesYaml.without(&both, Some(""), &with), Ok(Some(String::new())));
}

/// Among these no line can be added of which it is sure what it means.
#[test]
fn yaml_of_an_unusual_shape_is_refused() {
    for text in [
        "a: &x 1\nb: *x\n",
        "a: !t 1\n",
        "a: 1\n---\nb: 1\n",
        "{a: 1}\n",
        "mirrors: {}\n",
        "mirrors: 1\n",
        "mirrors:\n  docker.io:\n    endpoint: x\n",
        "mirrors:\n  docker.io:\n    endpoint: ~\n",
        "mirrors:\n  docker.io:\n    rewrite:\n      \"^(.*)$\": \"hub/$1\"\n",
    ] {
        let refused = Kind::RegistriesYaml.merged(&local(), Some(text), &[]);
        assert!(matches!(refused, Err(Refused::Conflict(_))), "{text:?}: {refused:?}");
    }
    for text in ["a: [", "- x\n", "\tx: 1\n", "text\n", "a: b: c\n"] {
        let refused = Kind::RegistriesYaml.merged(&local(), Some(text), &[]);
        assert!(matches!(refused, Err(Refused::Unreadable(_))), "{text:?}: {refused:?}");
    }
}

#[test]
fn what_cannot_be_read_is_refused() {
    for (kind, text) in [
        (Kind::DaemonJson, "{\"registry-mirrors\": [\"a\",]}"),
        (Kind::DaemonJson, "[]"),
        (Kind::DaemonJson, "// ours\n{}"),
        (Kind::HostsToml(hub()), "[host"),
        (Kind::ContainerdConfig, "version = \n"),
        (Kind::RegistriesConf, "[[registry]]\nlocation\n"),
        (Kind::BuildkitdToml, "x = 1\nx = 2\n"),
    ] {
        let refused = kind.merged(&local(), Some(text), &[]);
        assert!(matches!(refused, Err(Refused::Unreadable(_))), "{kind:?}: {refused:?}");
    }
    for (kind, text) in [
        (Kind::DaemonJson, "{\"registry-mirrors\": \"a\"}"),
        (Kind::DaemonJson, "{\"registry-mirrors\": [], \"registry-mirrors\": []}"),
        (Kind::BuildkitdToml, "registry = 1\n"),
        (Kind::BuildkitdToml, "[registry.\"docker.io\"]\nmirrors = \"x\"\n"),
        (Kind::RegistriesConf, "registry = 1\n"),
    ] {
        let refused = kind.merged(&local(), Some(text), &[]);
        assert!(matches!(refused, Err(Refused::Conflict(_))), "{kind:?}: {refused:?}");
    }
}

/// The flags are those of kaniko's README; of Cloud Foundry, see examples/cloud-foundry.
#[test]
fn clients_without_files_are_told_in_words() {
    let both = settings("http://mirror.example:5000", &["docker.io", "ghcr.io"]);
    assert_eq!(
        steps(Client::Kaniko, &both),
        [
            "--registry-map=index.docker.io=mirror.example:5000/docker.io",
            "--registry-map=ghcr.io=mirror.example:5000/ghcr.io",
            "--insecure-registry=mirror.example:5000"
        ]
    );
    assert_eq!(
        steps(Client::CloudFoundry, &both)[..2],
        [
            "cf push APP -o mirror.example:5000/docker.io/REPOSITORY:TAG",
            "cf push APP -o mirror.example:5000/ghcr.io/REPOSITORY:TAG"
        ]
    );
}
