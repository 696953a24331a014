//! A recording, event by event, judged like the run that it is of.

use crate::model::Expectation;
use heirloom_abi::options::Strategy;
use heirloom_source::recording::{Moment, ReadError, Recording};

use crate::event::Event;
use crate::judge::Judge;

/// A recording that nothing here can judge.
#[derive(Debug, thiserror::Error)]
#[error(
    "could not judge the recording {recording}: its guest was held to `{strategy}`, which this program does \
     not know; use the program that wrote it ({producer})"
)]
pub struct UnknownStrategy {
    recording: String,
    strategy: String,
    producer: String,
}

/// Plays a recording to a judge of its own.
pub struct Replay<'r> {
    recording: &'r Recording,
    moments: Box<dyn Iterator<Item = Result<Moment, ReadError>> + 'r>,
    judge: Option<Judge>,
}

/// A recorded moment.
pub struct Replayed {
    /// As it was recorded.
    pub moment: Moment,
    /// What the guest reported then, if it was a guest of ours.
    pub event: Option<Event>,
}

impl<'r> Replay<'r> {
    /// From the first event on.
    ///
    /// # Errors
    /// [`UnknownStrategy`].
    pub fn of(recording: &'r Recording) -> Result<Replay<'r>, UnknownStrategy> {
        let header = recording.header();
        let judge = match &header.strategy {
            None => None,
            Some(name) => {
                let strategy = Strategy::from_name(name).ok_or_else(|| UnknownStrategy {
                    recording: recording.name().display().to_string(),
                    strategy: name.clone(),
                    producer: header.producer.clone(),
                })?;
                Some(Judge::new(header.truth.clone(), Expectation { strategy }))
            }
        };
        Ok(Replay {
            recording,
            moments: Box::new(recording.moments()),
            judge,
        })
    }

    /// Reads and judges the next moment; `None` at the end.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn next_event(&mut self) -> Result<Option<Replayed>, ReadError> {
        let Some(moment) = self.moments.next().transpose()? else {
            return Ok(None);
        };
        let mut event = event_of(self.recording, &moment)?;
        if let (Some(judge), Some(event)) = (&mut self.judge, &mut event) {
            judge.apply(event);
            event.sequence = judge.model().number();
            if let Some(tables) = &moment.tables {
                judge.observe(
                    event,
                    &tables.cpus,
                    tables.reporting_cpu,
                    &tables.snapshot,
                    &moment.memory,
                );
            }
        }
        Ok(Some(Replayed { moment, event }))
    }

    /// The judge, with its verdicts so far; `None` for a recording of a guest that is not ours.
    pub fn judge(&self) -> Option<&Judge> {
        self.judge.as_ref()
    }
}

/// What the guest reported at a moment of a recording, if it was a guest of ours.
///
/// # Errors
/// [`ReadError`]: it is no event that this program knows.
pub fn event_of(recording: &Recording, moment: &Moment) -> Result<Option<Event>, ReadError> {
    let event = moment.event.as_deref().map(|page| Event::from_bytes(*page));
    event
        .transpose()
        .map_err(|error| recording.not_understood(moment.number, error))
}
