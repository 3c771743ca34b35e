//! Which bucket it is, and who we are to it: as it is configured, and what files and the environment say of that.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::{BackoffConfig, ClientOptions, RetryConfig, StaticCredentialProvider};

use super::super::settings::{Credentials, Settings};
use super::super::store_time::StoreTime;
use super::listening::{Certificate, Listening};
use super::{Bucket, DEADLINE};
use crate::carrier::Carrier;
use crate::setting_file;

/// Why a bucket cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file that the configuration names.
    #[error("store.bucket.{key}: the file {path} {what}")]
    File {
        /// The key that names it.
        key: &'static str,
        /// Where it is.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The environment says nothing of who we are.
    #[error(
        "store.bucket.credentials: the environment has neither AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY nor a web identity"
    )]
    NoCredentials,
    /// Anything else.
    #[error("store.bucket: {0}")]
    Settings(String),
}

impl Bucket {
    /// A bucket as it is configured. Reads the files that the settings name, and what `env` says of credentials and
    /// the region; asks nobody. What it sends is read by `carrier`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        settings: &Settings,
        carrier: &Carrier,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Bucket, OpenError> {
        let mut trusted = Vec::new();
        if let Some(path) = &settings.ca {
            let wrong = |what: String| OpenError::File { key: "ca", path: path.display().to_string(), what };
            let pem = setting_file::bytes(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
            trusted = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(format!("is no PEM: {error}")))?;
        }
        let region = settings.region.clone().or_else(|| env("AWS_REGION")).or_else(|| env("AWS_DEFAULT_REGION"));
        let backoff = BackoffConfig { max_backoff: Duration::from_secs(1), ..BackoffConfig::default() };
        let time = Arc::<StoreTime>::default();
        let connect = settings.patience.max(Duration::from_secs(1));
        let listening = Listening { time: Arc::clone(&time), carrier: carrier.clone(), connect, trusted };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.name)
            .with_http_connector(listening)
            .with_disable_bulk_delete(true)
            .with_region(region.unwrap_or_else(|| "us-east-1".to_owned()))
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_retry(RetryConfig { backoff, max_retries: 3, retry_timeout: DEADLINE });
        match &settings.endpoint {
            Some(endpoint) => builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/')),
            None => builder = builder.with_virtual_hosted_style_request(!settings.name.contains('.')),
        }
        builder = as_somebody(builder, &settings.credentials, env)?;
        let no_more = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let wrong = |error: object_store::Error| OpenError::Settings(error.to_string());
        let once = Arc::new(builder.clone().with_retry(no_more).build().map_err(wrong)?);
        let store = Arc::new(builder.build().map_err(wrong)?);
        Ok(Bucket { signer: Some(Arc::clone(&store) as _), once, ..Bucket::of(store, settings, time) })
    }
}

fn as_somebody(
    builder: AmazonS3Builder,
    credentials: &Credentials,
    env: impl Fn(&str) -> Option<String>,
) -> Result<AmazonS3Builder, OpenError> {
    match credentials {
        Credentials::Instance => Ok(builder),
        Credentials::File(path) => {
            let wrong = |what: String| OpenError::File { key: "credentials", path: path.display().to_string(), what };
            let text = setting_file::text(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
            let parts = text
                .trim_end()
                .split_once(':')
                .filter(|(key, secret)| !key.is_empty() && !secret.is_empty() && !secret.contains(char::is_whitespace));
            let (key, secret) = parts.ok_or_else(|| wrong("must hold KEY:SECRET on one line".to_owned()))?;
            let credential = AwsCredential { key_id: key.to_owned(), secret_key: secret.to_owned(), token: None };
            Ok(builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential))))
        }
        Credentials::Environment => {
            const KEYS: [(&str, AmazonS3ConfigKey); 10] = [
                ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
                ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
                ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
                ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
                ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
                ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
                ("AWS_ENDPOINT_URL_STS", AmazonS3ConfigKey::StsEndpoint),
                ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
            ];
            let is_set = |name: &str| env(name).is_some_and(|value| !value.is_empty());
            let ways: [&[&str]; 4] = [
                &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
                &["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"],
                &["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"],
                &["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"],
            ];
            if !ways.iter().any(|way| way.iter().all(|name| is_set(name))) {
                return Err(OpenError::NoCredentials);
            }
            let set =
                KEYS.into_iter().filter_map(|(name, key)| Some((key, env(name).filter(|value| !value.is_empty())?)));
            Ok(set.fold(builder, |builder, (key, value)| builder.with_config(key, value)))
        }
    }
}
