//! Gauges that have a value only if it is known: an unknown one is left out, because 0 would be a value.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::process::gauge;

#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Values>);

#[derive(Clone, Copy, Debug, Default)]
struct Values {
    oldest_success: Option<f64>,
    oldest_stale: Option<f64>,
    stale_half: Option<f64>,
    pods_without_volume: Option<usize>,
    keys_fetched: Option<f64>,
}

impl Known {
    pub(super) fn oldest_success(&self, at: Option<f64>) {
        self.lock().oldest_success = at;
    }

    pub(super) fn oldest_stale(&self, at: Option<f64>) {
        self.lock().oldest_stale = at;
    }

    pub(super) fn stale_half(&self, at: Option<f64>) {
        self.lock().stale_half = at;
    }

    pub(super) fn pods_without_volume(&self, count: Option<usize>) {
        self.lock().pods_without_volume = count;
    }

    pub(super) fn keys_fetched(&self, at: Option<f64>) {
        self.lock().keys_fetched = at;
    }

    fn lock(&self) -> MutexGuard<'_, Values> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Known {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Values { oldest_success, oldest_stale, stale_half, pods_without_volume, keys_fetched } = *self.lock();
        if let Some(at) = oldest_success {
            let help = "The oldest of the last successes of all volumes of keyferry_volumes, in Unix time";
            gauge(&mut encoder, "volume_oldest_success_timestamp", help, Some(&Unit::Seconds), at)?;
        }
        if let Some(at) = oldest_stale {
            let help = "While a store is out: when Keyferry asked it for the oldest answer in volumes of keyferry_volumes, in Unix time";
            gauge(&mut encoder, "volume_oldest_stale_timestamp", help, Some(&Unit::Seconds), at)?;
        }
        if let Some(at) = stale_half {
            let help = "While a store is out: when the first of its earlier answers in volumes reaches half of its backend's cache.stale, in Unix time";
            gauge(&mut encoder, "volume_stale_half_timestamp", help, Some(&Unit::Seconds), at)?;
        }
        if let Some(count) = pods_without_volume {
            let help = "Running Pods whose volume of the Secrets Store CSI driver is not mounted (only where kubelet's folder can be seen)";
            gauge(&mut encoder, "pods_without_volume", help, None, count as u64)?;
        }
        if let Some(at) = keys_fetched {
            let help = "When the issuer's keys were last fetched, in Unix time (only where they come from an address)";
            gauge(&mut encoder, "issuer_keys_timestamp", help, Some(&Unit::Seconds), at)?;
        }
        Ok(())
    }
}
