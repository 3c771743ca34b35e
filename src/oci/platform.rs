//! Platforms: the machines that the images of an index are for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The machine that an image is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `amd64`.
    pub architecture: String,
    /// Such as `v8`; any if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Whether an image for `offered` is what somebody wants who asks for this platform, by whatever names.
    pub fn takes(&self, offered: &Platform) -> bool {
        let (wanted, offered) = (self.normal(), offered.normal());
        // The only variant that goes without saying.
        let of_arm = |architecture: &str| (architecture == "arm").then(|| "v7".to_owned());
        let variant = offered.variant.or_else(|| of_arm(&offered.architecture));
        wanted.os == offered.os
            && wanted.architecture == offered.architecture
            && (wanted.variant.is_none() || wanted.variant == variant)
    }

    /// The same by the names of Go; rules: containerd/platforms, `database.go`.
    fn normal(&self) -> Platform {
        let lower = |text: &String| text.to_ascii_lowercase();
        let (os, architecture, variant) =
            (lower(&self.os), lower(&self.architecture), self.variant.as_ref().map(lower));
        let os = if os == "macos" { "darwin".to_owned() } else { os };
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref().unwrap_or_default()) {
            ("i386", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "7") => ("arm", "v7"),
            ("arm", "8") => ("arm", "v8"),
            named => named,
        };
        let variant = (!variant.is_empty()).then(|| variant.to_owned());
        Platform { os, architecture: architecture.to_owned(), variant }
    }
}

impl Default for Platform {
    /// Linux on the processor that this was compiled for.
    fn default() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }
}

/// The string is not `OS/ARCHITECTURE[/VARIANT]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a platform is written OS/ARCHITECTURE[/VARIANT], such as linux/arm64/v8")]
pub struct PlatformError;

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Platform, PlatformError> {
        let mut parts = text.split('/').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(os), Some(architecture), variant, None) if !os.is_empty() && !architecture.is_empty() => {
                Ok(Platform { os, architecture, variant })
            }
            _ => Err(PlatformError),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().expect("a platform")
    }

    #[test]
    fn a_platform_is_os_architecture_and_perhaps_a_variant() {
        for text in ["linux/amd64", "linux/arm64/v8"] {
            assert_eq!(text.parse::<Platform>().map(|platform| platform.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn who_names_no_variant_takes_any() {
        assert!(platform("linux/arm").takes(&platform("linux/arm/v7")));
        assert!(platform("linux/arm/v7").takes(&platform("linux/arm/v7")));
        for offered in ["linux/arm/v6", "linux/amd64", "windows/arm/v7"] {
            assert!(!platform("linux/arm/v7").takes(&platform(offered)), "{offered}");
        }
    }

    #[test]
    fn a_platform_has_more_names_than_one() {
        for (one, other) in [
            ("linux/amd64", "linux/x86_64"),
            ("linux/amd64", "Linux/AMD64"),
            ("linux/amd64", "linux/x86-64/v1"),
            ("linux/amd64/v2", "linux/x86_64/v2"),
            ("linux/arm64", "linux/aarch64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64", "linux/aarch64/8"),
            ("linux/arm/v7", "linux/armhf"),
            ("linux/arm/v7", "linux/arm/7"),
            ("linux/arm/v7", "linux/arm"),
            ("linux/arm/v6", "linux/armel"),
            ("linux/386", "linux/i386"),
            ("darwin/arm64", "macOS/arm64"),
        ] {
            assert!(platform(one).takes(&platform(other)), "{one} {other}");
        }
        for (wanted, offered) in
            [("linux/amd64/v3", "linux/x86_64"), ("linux/arm/v6", "linux/arm"), ("linux/386", "linux/amd64")]
        {
            assert!(!platform(wanted).takes(&platform(offered)), "{wanted} {offered}");
        }
    }
}
