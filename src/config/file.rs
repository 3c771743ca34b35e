//! `mirror.toml`, exactly as it is typed.
//!
//! The first of two stages: everything here is a string, a number or a list, as it stands in the
//! file; nothing is checked beyond its type. The second stage is [`super::Config`]. The values of
//! `Default` are the documented defaults, and the fields are the only list of keys there is: the
//! nearest known key of a typing error and the names of the environment variables come from them.
//! Durations and sizes are strings with units (`"5m"`, `"32MiB"`). The schema for editors comes from them, too.
//! The file is as long as there are keys.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The whole file. Every key is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// Where we listen.
    pub server: Server,
    /// Where content is kept and how much of it.
    pub store: Store,
    /// How long content counts as fresh.
    pub cache: Cache,
    /// Which upstream a request is for.
    pub routes: Routes,
    /// What is used at once.
    pub limits: Limits,
    /// Who may read, and how clients say who they are.
    pub access: Access,
    /// What is logged.
    pub log: Log,
    /// The registries we fetch from, besides the well-known ones.
    pub upstream: Vec<Upstream>,
}

impl File {
    /// The defaults with one of each `[[…]]`, so that every key occurs.
    pub fn template() -> File {
        let access = Access { oidc: vec![Oidc::default()], grant: vec![Grant::default()], ..Access::default() };
        File { access, upstream: vec![Upstream::default()], ..File::default() }
    }
}

/// The JSON Schema of the file, for editors.
pub fn schema() -> serde_json::Map<String, serde_json::Value> {
    let mut schema = SchemaSettings::draft2020_12().for_deserialize().into_generator().into_root_schema_for::<File>();
    let object = schema.ensure_object();
    object.insert("title".to_owned(), "mirror.toml of registry-mirror".into());
    object.clone()
}

/// A list of strings, or a string for a list of one.
fn one_or_more(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
}

/// `[server]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Addresses for clients, each `address:port`, or `address:port=host` for one of an upstream.
    #[schemars(schema_with = "one_or_more")]
    pub listen: Vec<String>,
    /// Addresses for health and metrics; an empty list switches them off.
    #[schemars(schema_with = "one_or_more")]
    pub admin: Vec<String>,
    /// The Unix socket of the admin interface; empty for `registry-mirror.sock` in
    /// `$RUNTIME_DIRECTORY`, else `admin.sock` in the store; `off` for none.
    pub admin_socket: String,
    /// `file:` and the path of a file with the token that lets addresses act; empty: none does.
    pub admin_token: String,
    /// Client connections at once; more wait to be accepted.
    pub max_connections: u64,
    /// Addresses or networks of proxies in front: their `X-Forwarded-For` says who the client is.
    pub trusted_proxies: Vec<String>,
    /// How long a client may take to send the head of a request.
    pub header_timeout: String,
    /// How long a client may take nothing of an answer that waits for it, or less than 1 KiB a second.
    pub send_timeout: String,
    /// How long a stop may take in all: running answers, then running fills.
    pub drain: String,
    /// The status for a blob that is not stored and that upstream cannot give now: 503 or 404.
    pub unavailable_blob: u64,
    /// The algorithm that paces what is sent, such as `cubic` or `reno`; empty for the system's.
    pub congestion_control: String,
    /// Certificates; without them clients speak plain HTTP.
    pub tls: Tls,
}

/// `[server.tls]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// A file with the certificate and its chain (PEM). Empty: plain HTTP.
    pub cert: String,
    /// A file with the private key of the certificate (PEM).
    pub key: String,
    /// A file with authorities (PEM): only clients with a certificate of theirs are served. Empty: all.
    pub client_ca: String,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: vec!["127.0.0.1:5000".into()],
            admin: vec!["127.0.0.1:5080".into()],
            admin_socket: String::new(),
            admin_token: String::new(),
            max_connections: 4096,
            trusted_proxies: Vec::new(),
            header_timeout: "10s".into(),
            send_timeout: "10m".into(),
            drain: "30s".into(),
            unavailable_blob: 503,
            congestion_control: String::new(),
            tls: Tls::default(),
        }
    }
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// The folder; empty for `$CACHE_DIRECTORY`, else, with the file `/etc/registry-mirror/mirror.toml`, for
    /// `/var/cache/registry-mirror` if that is there, else for `registry-mirror` in the XDG cache folder.
    pub path: String,
    /// What the store may hold: a part of the file system such as `80%`, or a size.
    pub max_size: String,
    /// What stays free on the file system: a part of it or a size.
    pub min_free: String,
    /// How much of the store is read again each second to find damage; `0` for never.
    pub scrub_rate: String,
    /// Whether every blob is hashed before it is served.
    pub verify_on_read: bool,
    /// An S3-compatible store behind the folder, which several replicas share.
    pub bucket: Bucket,
}

/// `[store.bucket]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bucket {
    /// Its name; empty: no bucket.
    pub name: String,
    /// Where the store is, `https://` or `http://`; empty for AWS.
    pub endpoint: String,
    /// Its region; empty for what the environment says.
    pub region: String,
    /// What the keys of all objects begin with.
    pub prefix: String,
    /// `env`, `file:PATH` of a file with `KEY:SECRET` on one line, or `instance`.
    pub credentials: String,
    /// A file with certificates to trust besides the system's; empty for none.
    pub ca: String,
    /// What the bucket may hold below the prefix; `0` is no bound.
    pub max_size: String,
    /// Where other replicas reach this one; empty: they do not.
    pub advertise: String,
    /// `file:` and the path of a file with the secret that all replicas know; empty: they ask one another nothing.
    pub peers_secret: String,
    /// Networks of clients that are sent to the bucket for blobs of public upstreams.
    #[schemars(schema_with = "one_or_more")]
    pub redirect: Vec<String>,
    /// How long such an address is good.
    pub redirect_ttl: String,
    /// Whether replicas tell each other by leases what they fetch: `auto` or `off`.
    pub leases: String,
}

impl Default for Bucket {
    fn default() -> Bucket {
        Bucket {
            name: String::new(),
            endpoint: String::new(),
            region: String::new(),
            prefix: "mirror/".into(),
            credentials: "env".into(),
            ca: String::new(),
            max_size: "0".into(),
            advertise: String::new(),
            peers_secret: String::new(),
            redirect: Vec::new(),
            redirect_ttl: "10m".into(),
            leases: "auto".into(),
        }
    }
}

impl Default for Store {
    fn default() -> Store {
        Store {
            path: String::new(),
            max_size: "80%".into(),
            min_free: "5%".into(),
            scrub_rate: "1MiB".into(),
            verify_on_read: false,
            bucket: Bucket::default(),
        }
    }
}

/// `[cache]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// `online`, `prefer-cache` or `offline`.
    pub mode: String,
    /// How long a tag is served without asking upstream.
    pub tag_ttl: String,
    /// How old a tag may be when upstream cannot answer.
    pub stale_if_error: String,
    /// How long a client waits for upstream where something stored can be served.
    pub patience: String,
    /// How long we remember that upstream has not got something.
    pub negative_ttl: String,
    /// Whether a manifest is refused while upstream is away, when not all that it leads to is stored.
    pub complete_only: bool,
    /// How much of an image is fetched ahead when a client gets its manifest; `0` for nothing.
    pub prefetch: String,
    /// How much may be missing of a blob, as a size or a part of it, for its download to go on when the
    /// last client has left.
    pub finish_unread: String,
    /// Memory for manifests and small blobs that were asked for lately; `0` for none.
    pub memory: String,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache {
            mode: "online".into(),
            tag_ttl: "5m".into(),
            stale_if_error: "30d".into(),
            patience: "2s".into(),
            negative_ttl: "30s".into(),
            complete_only: false,
            prefetch: "0".into(),
            finish_unread: "100%".into(),
            memory: "16MiB".into(),
        }
    }
}

/// `[routes]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Routes {
    /// The upstream of a request that names none.
    pub default: String,
    /// Whether the well-known public registries are upstreams without being configured.
    pub well_known: bool,
}

impl Default for Routes {
    fn default() -> Routes {
        Routes { default: "docker.io".into(), well_known: true }
    }
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Fills at once from each upstream.
    pub fills: u64,
    /// Memory for the fills that the disk cannot take, all of them together.
    pub fill_memory: String,
    /// How long to wait for a place, among the fills and among the requests to an upstream.
    pub fill_wait: String,
    /// Connections of each client; 0 is no limit. One more waits for `server.header_timeout` at most.
    pub connections_per_client: u64,
    /// Requests of each client a second; 0 is no limit.
    pub requests_per_client: u64,
    /// Questions to upstreams for each client a minute; 0 is no limit.
    pub cold_per_client: u64,
    /// Bytes a second to each client; 0 is no limit.
    pub egress_per_client: String,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            fills: 64,
            fill_memory: "32MiB".into(),
            fill_wait: "10s".into(),
            connections_per_client: 2048,
            requests_per_client: 0,
            cold_per_client: 0,
            egress_per_client: "0".into(),
        }
    }
}

/// `[access]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// A file with users and passwords, as `htpasswd -B` writes it: bcrypt only. Empty: none.
    pub htpasswd: String,
    /// How long an upstream's yes holds for a caller and a repository, at most 5 minutes.
    pub grant_ttl: String,
    /// Where it is written down who got what, JSON lines: a file, or `stderr`. Empty: nowhere.
    pub audit: String,
    /// Whose tokens count.
    pub oidc: Vec<Oidc>,
    /// Who may read what, of upstreams that are `mapped`; in `shared` what tokens may read.
    pub grant: Vec<Grant>,
}

impl Default for Access {
    fn default() -> Access {
        let (htpasswd, grant_ttl, audit) = (String::new(), "2m".into(), String::new());
        Access { htpasswd, grant_ttl, audit, oidc: Vec::new(), grant: Vec::new() }
    }
}

/// `[[access.oidc]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Oidc {
    /// What `who` calls it, as in `oidc:NAME:SUB`; needed where there is more than one.
    pub name: String,
    /// Its address, exactly as in the claim `iss`: `https://`, or `http://` on loopback.
    pub issuer: String,
    /// What its tokens must be for; one matching entry of `aud` is enough.
    pub audience: String,
}

impl Default for Oidc {
    fn default() -> Oidc {
        let issuer = "https://token.actions.githubusercontent.com".into();
        Oidc { name: String::new(), issuer, audience: "registry-mirror".into() }
    }
}

/// `[[access.grant]]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("required" = ["who", "may"]))]
#[serde(default, deny_unknown_fields)]
pub struct Grant {
    /// What refusals, `access explain` and the audit call it; empty for its number.
    pub name: String,
    /// `user:NAME`, `cert:NAME` (the common name or an alternative one), `oidc:SUB` or `oidc:ISSUER:SUB`, each
    /// with `*` for anything; or `anonymous`.
    #[schemars(schema_with = "one_or_more")]
    pub who: Vec<String>,
    /// `host/repository` or `host/repository:tag`; `*` stops at a slash, `**` does not.
    #[schemars(schema_with = "one_or_more")]
    pub may: Vec<String>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, `off`, or directives such as `info,hyper=debug`. The
    /// libraries underneath never get finer than `debug`.
    pub level: String,
    /// `auto` (text on a terminal, JSON elsewhere), `text` or `json`.
    pub format: String,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: "info".into(), format: "auto".into() }
    }
}

/// `[[upstream]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("required" = ["host"]))]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// The name images use, the `ns` value and the path prefix. The one key without a default.
    pub host: String,
    /// Where its API is; several are tried in order. Empty for the well-known address, else
    /// `https://` and the host.
    #[schemars(schema_with = "one_or_more")]
    pub url: Vec<String>,
    /// `anonymous`, `docker-config`, `helper:NAME` or `file:PATH`.
    pub auth: String,
    /// Who may read what it has: `public`, `shared`, `pass-through` or `mapped`. Empty: `public` without credentials
    /// of ours, `shared` with some while all listeners are on loopback; beyond it, it must be said.
    pub access: String,
    /// Hosts of token services that may see the credentials, besides those of the upstream's own domain.
    #[schemars(schema_with = "one_or_more")]
    pub auth_realms: Vec<String>,
    /// A file with certificates to trust besides the system's; empty for none.
    pub ca: String,
    /// A file with our own certificate, for upstreams that want one; empty for none.
    pub client_cert: String,
    /// The file with its key.
    pub client_key: String,
    /// The proxy for what goes to this upstream; empty for what the environment says.
    pub proxy: String,
    /// Who we are to that proxy, as `file:PATH`; empty for nobody.
    pub proxy_auth: String,
    /// Whether `http://` addresses are accepted that leave this machine, and `https://` ones whose
    /// certificate is not good. For exactly these addresses.
    pub insecure: bool,
    /// Whether the upstream may redirect to, and name token services at, private addresses. Hosts that stand
    /// in the configuration may be private in any case.
    pub allow_private: bool,
    /// Whether an `https://` address may redirect to `http://` for blobs.
    pub redirect_to_http: bool,
    /// With several addresses: `answer` where a 404 is one, `next` where it sends on to the next address.
    pub on_missing: String,
    /// The part of the pulls it grants below which cached tags are served without asking.
    pub budget_floor: String,
    /// Through how many connections a large blob is read at once, 1 to 4.
    pub parallel: u64,
    /// How many requests may be under way, at all addresses together; 0: `limits.fills` and 32 more.
    pub connections: u64,
    /// How long a connection may take to be made.
    pub connect_timeout: String,
    /// How long the first byte of an answer may take.
    pub first_byte_timeout: String,
    /// How long an answer may stand still.
    pub idle_timeout: String,
}

impl Default for Upstream {
    fn default() -> Upstream {
        Upstream {
            host: String::new(),
            url: Vec::new(),
            auth: "anonymous".into(),
            access: String::new(),
            auth_realms: Vec::new(),
            ca: String::new(),
            client_cert: String::new(),
            client_key: String::new(),
            proxy: String::new(),
            proxy_auth: String::new(),
            insecure: false,
            allow_private: false,
            redirect_to_http: false,
            on_missing: "answer".into(),
            budget_floor: "10%".into(),
            parallel: 1,
            connections: 0,
            connect_timeout: "5s".into(),
            first_byte_timeout: "30s".into(),
            idle_timeout: "60s".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_of_the_file_knows_every_key() {
        let schema = serde_json::Value::Object(schema());
        let template = toml::Table::try_from(File::template()).expect("TOML");
        for (section, value) in &template {
            let mut reference = &schema["properties"][section];
            if let Some(items) = reference.get("items") {
                reference = items;
            }
            let name = reference["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")).expect("a definition");
            let definition = &schema["$defs"][name];
            assert_eq!(definition["additionalProperties"], false, "{section}");
            let keys =
                value.as_array().and_then(|values| values.first()).unwrap_or(value).as_table().expect("a section");
            for (key, default) in keys {
                let found = &definition["properties"][key];
                assert!(found["description"].is_string() || default.is_table(), "{section}.{key} has no description");
                let as_json = serde_json::to_value(default).expect("JSON");
                let is_section = default.is_table() || default.get(0).is_some_and(toml::Value::is_table);
                assert!(is_section || found["default"] == as_json, "{section}.{key}: {found}");
            }
        }
        let upstream = &schema["$defs"]["Upstream"];
        assert_eq!(upstream["required"], serde_json::json!(["host"]));
        assert_eq!(upstream["properties"]["url"]["anyOf"].as_array().map(Vec::len), Some(2), "a string or a list");
    }
}
