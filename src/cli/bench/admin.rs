//! What our own mirror says on its admin listener: bytes received from upstreams, fills in flight. And
//! what it is told there: to forget an image.
//!
//! Two series of one page; a mirror that is not ours, or not there, is no error but says nothing.

use std::time::Duration;

use crate::cli::client::{Endpoint, Search};
use crate::documents::{Error, Forgotten, Garbage, orders};
use crate::oci::ImageName;

const RECEIVED: &str = "mirror_upstream_received_bytes_total";
const FILLS: &str = "mirror_fills_in_flight";
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How long a mirror may take to delete what it forgot.
const DELETING: Duration = Duration::from_secs(60);

/// The admin listener of a mirror.
pub(super) struct Admin(Endpoint);

impl Admin {
    /// The one that is searched for.
    pub(super) fn of(search: Search<'_>) -> Result<Admin, Error> {
        search.find().map(Admin)
    }

    /// Bytes of content received from all upstreams so far.
    pub(super) async fn upstream_bytes(&self) -> Option<u64> {
        self.read(RECEIVED).await
    }

    /// Fills that have not ended.
    pub(super) async fn fills_in_flight(&self) -> Option<u64> {
        self.read(FILLS).await
    }

    async fn read(&self, series: &str) -> Option<u64> {
        let page = async { self.0.get("/metrics").await?.whole().await };
        let page = tokio::time::timeout(PATIENCE, page).await.ok()?.ok()?;
        sum(std::str::from_utf8(&page).ok()?, series)
    }

    /// Makes the mirror forget an image, and delete what nothing leads to then.
    ///
    /// # Errors
    /// What the mirror said instead, for people.
    pub(super) async fn forget(&self, image: &ImageName) -> Result<(), String> {
        let images = orders::Images { images: vec![image.to_string()], ..orders::Images::default() };
        let forgetting = async {
            self.0.post("forget", &images).await?.document::<Forgotten>().await?;
            self.0.post("gc", &orders::Collect::default()).await?.document::<Garbage>().await?;
            Ok::<_, Error>(())
        };
        match tokio::time::timeout(DELETING, forgetting).await {
            Ok(forgotten) => forgotten.map_err(|error| error.message),
            Err(_) => Err(format!("it took longer than {DELETING:?}")),
        }
    }
}

/// The series over all its labels. A page of ours that lacks it has counted nothing yet.
fn sum(page: &str, series: &str) -> Option<u64> {
    let ours = page.lines().any(|line| line.starts_with("# TYPE mirror_"));
    let samples = page.lines().filter_map(|line| line.strip_prefix(series)).filter(|rest| rest.starts_with(['{', ' ']));
    let values = samples.map(|rest| rest.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok()));
    if ours { values.sum() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_summed_over_its_labels() {
        let page = "# TYPE mirror_upstream_received_bytes counter\n\
                    mirror_upstream_received_bytes_total{upstream=\"docker.io\"} 40\n\
                    mirror_upstream_received_bytes_total{upstream=\"ghcr.io\"} 2\n\
                    mirror_upstream_received_bytes_total_else 7\n";
        assert_eq!(sum(page, RECEIVED), Some(42));
        assert_eq!(sum("# TYPE mirror_requests counter\n", RECEIVED), Some(0));
        assert_eq!(sum("# TYPE go_goroutines gauge\ngo_goroutines 7\n", RECEIVED), None, "another program's page");
        assert_eq!(sum("", RECEIVED), None);
    }
}
