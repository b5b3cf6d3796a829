//! One ticker's bars in order: checks each, then feeds the detector.

use jiff::civil::Date;

use crate::bar::{BadBar, Bar};
use crate::cross::{Cross, CrossDetector};

/// The state of one ticker. A refused bar changes nothing.
#[derive(Debug, Default)]
pub struct Series {
    last: Option<Date>,
    detector: CrossDetector,
}

impl Series {
    /// Dates must rise strictly: the first bar of a day stays, an older one is refused.
    pub fn push(&mut self, bar: &Bar) -> Result<Option<Cross>, BadBar> {
        bar.check()?;
        match self.last {
            Some(last) if bar.date == last => return Err(BadBar::Repeated(last)),
            Some(last) if bar.date < last => {
                return Err(BadBar::OutOfOrder { date: bar.date, last });
            }
            _ => self.last = Some(bar.date),
        }
        Ok(self.detector.push(bar))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn dates_must_rise_and_a_refused_bar_changes_nothing() {
        let bar = |day| Bar { date: date(2024, 1, day), open: 1.0, high: 1.0, low: 1.0, close: 1.0, volume: 0.0 };
        let mut series = Series::default();
        assert_eq!(series.push(&bar(5)), Ok(None));
        assert_eq!(series.push(&bar(5)), Err(BadBar::Repeated(date(2024, 1, 5))));
        assert_eq!(series.push(&bar(4)), Err(BadBar::OutOfOrder { date: date(2024, 1, 4), last: date(2024, 1, 5) }));
        assert_eq!(series.push(&Bar { close: 0.0, ..bar(6) }), Err(BadBar::Price("close")));
        assert_eq!(series.push(&bar(6)), Ok(None));
    }
}
