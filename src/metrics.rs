//! Counters and gauges by name, and their Prometheus text.
//!
//! A metric is registered once and counted by an atomic; rendering is the only thing that takes the lock. Names are
//! `brooklet_<module>_<what>_<unit>[_total]`. Never samples, never keeps time series.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

/// All metrics of one daemon. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<BTreeMap<String, Family>>>);

struct Family {
    help: &'static str,
    kind: &'static str,
    series: BTreeMap<String, Arc<AtomicI64>>,
}

/// A number that only grows. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicI64>);

/// A number that moves both ways. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(i64::try_from(n).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        u64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Registry {
    /// A counter; the same name and labels give the same counter. `name` ends in `_total`.
    pub fn counter(&self, name: &str, help: &'static str, labels: &[(&str, &str)]) -> Counter {
        Counter(self.series(name, help, "counter", labels))
    }

    /// A gauge; the same name and labels give the same gauge.
    pub fn gauge(&self, name: &str, help: &'static str, labels: &[(&str, &str)]) -> Gauge {
        Gauge(self.series(name, help, "gauge", labels))
    }

    /// Forgets one series, for a topic, connection or connector that is gone.
    pub fn forget(&self, name: &str, labels: &[(&str, &str)]) {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(family) = families.get_mut(name) {
            family.series.remove(&label_text(labels));
        }
    }

    /// The Prometheus text format, version 0.0.4.
    pub fn render(&self) -> String {
        let families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        for (name, family) in families.iter() {
            // Writing to a String cannot fail.
            let _ok = writeln!(out, "# HELP {name} {}\n# TYPE {name} {}", family.help, family.kind);
            for (labels, value) in &family.series {
                let _ok = writeln!(out, "{name}{labels} {}", value.load(Ordering::Relaxed));
            }
        }
        out
    }

    fn series(&self, name: &str, help: &'static str, kind: &'static str, labels: &[(&str, &str)]) -> Arc<AtomicI64> {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let family = families.entry(name.to_owned()).or_insert_with(|| Family { help, kind, series: BTreeMap::new() });
        Arc::clone(family.series.entry(label_text(labels)).or_default())
    }
}

fn label_text(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let mut text = String::from("{");
    for (i, (key, value)) in labels.iter().enumerate() {
        if i > 0 {
            text.push(',');
        }
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ok = write!(text, "{key}=\"{value}\"");
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_families_once_with_escaped_labels() {
        let registry = Registry::default();
        registry.counter("brooklet_x_total", "X.", &[("topic", "a\"b")]).add(3);
        registry.counter("brooklet_x_total", "X.", &[("topic", "a\"b")]).increment();
        registry.gauge("brooklet_y_bytes", "Y.", &[]).set(-1);
        assert_eq!(
            registry.render(),
            "# HELP brooklet_x_total X.\n# TYPE brooklet_x_total counter\nbrooklet_x_total{topic=\"a\\\"b\"} 4\n\
             # HELP brooklet_y_bytes Y.\n# TYPE brooklet_y_bytes gauge\nbrooklet_y_bytes -1\n"
        );
    }
}
