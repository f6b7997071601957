//! Mounts that say the same as the volume's last one are counted; the count is written when something changes, each hour, and at the end.

use std::collections::HashMap;

use jiff::Timestamp;

use super::Event;

/// Volumes remembered; past that the one heard of longest ago is written out and forgotten.
const VOLUMES: usize = 4096;

/// Bytes of the events held back; past that the one heard of longest ago goes as well.
const HELD: usize = 4 * 1024 * 1024;

/// A volume whose mounts go on unchanged is written again after this many seconds, so that the log shows it is alive.
const INTERVAL_SECONDS: i64 = 3600;

#[derive(Debug, Default)]
pub(super) struct Repeats {
    volumes: HashMap<u64, Last>,
    /// Of the events held back.
    bytes: usize,
}

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
        if let Some(last) = self.volumes.get_mut(&volume) {
            last.heard = now;
            let held = last.held.take();
            self.bytes -= held.as_ref().map_or(0, Event::weight);
            if last.substance == substance {
                event.repeats = held.map_or(0, |held| held.repeats) + 1;
                if now.as_second() - last.written.as_second() >= INTERVAL_SECONDS {
                    last.written = now;
                    lines.push(event);
                } else {
                    self.bytes += event.weight();
                    last.held = Some(event);
                    while self.bytes > HELD {
                        lines.extend(self.forget_oldest());
                    }
                }
                return lines;
            }
            lines.extend(held);
        } else if self.volumes.len() >= VOLUMES {
            lines.extend(self.forget_oldest());
        }
        self.volumes.insert(volume, Last { substance, written: now, heard: now, held: None });
        lines.push(event);
        lines
    }

    /// What was to be written was not: the volume's next mount is no repeat of it.
    pub(super) fn forget(&mut self, volume: u64) {
        let held = self.volumes.remove(&volume).and_then(|last| last.held);
        self.bytes -= held.as_ref().map_or(0, Event::weight);
    }

    /// Everything held back.
    pub(super) fn drain(&mut self) -> Vec<Event> {
        self.bytes = 0;
        let mut lines: Vec<Event> = self.volumes.drain().filter_map(|(_, last)| last.held).collect();
        lines.sort_by_key(|event| event.time);
        lines
    }

    fn forget_oldest(&mut self) -> Option<Event> {
        let oldest = self.volumes.iter().min_by_key(|(_, last)| last.heard).map(|(volume, _)| *volume)?;
        let held = self.volumes.remove(&oldest)?.held;
        self.bytes -= held.as_ref().map_or(0, Event::weight);
        held
    }
}
