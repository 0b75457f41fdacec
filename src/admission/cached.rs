//! How the cache of verified tokens does, as it is when Prometheus asks: `auth` counts, and tells nobody.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::auth::{Cache, Uses};

#[derive(Debug)]
pub(super) struct Figures(pub(super) Arc<Cache>);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut add = |name: &str, help: &str, metric: &dyn EncodeMetric| {
            let kind = metric.metric_type();
            metric.encode(encoder.encode_descriptor(name, help, None, kind)?)
        };
        let Uses {
            entries,
            lookups,
            hits,
        } = self.0.uses();
        let help = "Verified tokens that are remembered";
        let entries = ConstGauge::new(entries as u64);
        add("slmd_token_cache_entries", help, &entries)?;
        let help = "Tokens that were looked for among the verified ones";
        let lookups = ConstCounter::new(lookups);
        add("slmd_token_cache_lookups", help, &lookups)?;
        let help = "Tokens that were found among the verified ones";
        add("slmd_token_cache_hits", help, &ConstCounter::new(hits))
    }
}
