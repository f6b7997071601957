//! Mounts that say the same as the volume's last one are counted; the count is written when something changes, each hour, and at the end.

use std::collections::HashMap;

use jiff::Timestamp;

use super::Event;

/// Volumes remembered; past that the one heard of longest ago is written out and forgotten.
const VOLUMES: usize = 4096;

/// A volume whose mounts go on unchanged is written again after this many seconds, so that the log shows it is alive.
const INTERVAL_SECONDS: i64 = 3600;

#[derive(Debug, Default)]
pub(super) struct Repeats(HashMap<u64, Last>);

#[derive(Debug)]
struct Last {
    substance: u64,
    written: Timestamp,
    heard: Timestamp,
    /// The newest of the mounts held back; its `repeats` is their number.
    held: Option<Event>,
}

impl Repeats {
    /// The lines to write now: what was held back of the volume, then the event itself, or nothing.
    pub(super) fn pass(&mut self, mut event: Event) -> Vec<Event> {
        let (volume, substance, now) = (event.volume(), event.substance(), event.time);
        let mut lines = Vec::new();
        if let Some(last) = self.0.get_mut(&volume) {
            last.heard = now;
            if last.substance == substance {
                event.repeats = last.held.as_ref().map_or(0, |held| held.repeats) + 1;
                last.held = Some(event);
                if now.as_second() - last.written.as_second() >= INTERVAL_SECONDS {
                    last.written = now;
                    lines.extend(last.held.take());
                }
                return lines;
            }
            lines.extend(last.held.take());
        } else if self.0.len() >= VOLUMES {
            lines.extend(self.forget_oldest());
        }
        self.0.insert(volume, Last { substance, written: now, heard: now, held: None });
        lines.push(event);
        lines
    }

    /// What was to be written was not: the volume's next mount is no repeat of it.
    pub(super) fn forget(&mut self, volume: u64) {
        self.0.remove(&volume);
    }

    /// Everything held back.
    pub(super) fn drain(&mut self) -> Vec<Event> {
        let mut lines: Vec<Event> = self.0.drain().filter_map(|(_, last)| last.held).collect();
        lines.sort_by_key(|event| event.time);
        lines
    }

    fn forget_oldest(&mut self) -> Option<Event> {
        let oldest = self.0.iter().min_by_key(|(_, last)| last.heard).map(|(volume, _)| *volume)?;
        self.0.remove(&oldest)?.held
    }
}
