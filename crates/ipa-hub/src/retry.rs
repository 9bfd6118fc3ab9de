//! Which failures pass, and how long to wait for that.

use std::time::Duration;

use crate::HubError;
use crate::settings::Patience;
use crate::url::Url;

/// Why one request failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Asking again would not help.
    Final(HubError),
    /// It may go next time: silence, a lost connection, or a status that says so.
    Passing {
        url: String,
        /// The status, or in words what happened.
        problem: Result<String, u16>,
        /// How long the server wants to be left alone.
        wait: Option<Duration>,
    },
}

impl Failure {
    pub(crate) fn network(url: &Url, reason: String) -> Self {
        Self::Passing { url: url.to_string(), problem: Ok(reason), wait: None }
    }

    /// The error that it is if nothing is tried again after `attempts`.
    pub(crate) fn into_error(self, attempts: u32) -> HubError {
        match self {
            Self::Final(error) => error,
            Self::Passing { url, problem: Ok(reason), .. } => HubError::Network { url, reason, attempts },
            Self::Passing { url, problem: Err(status), .. } => HubError::Status { url, status, attempts },
        }
    }

    fn in_words(&self) -> String {
        match self {
            Self::Passing { problem: Ok(reason), .. } => reason.clone(),
            Self::Passing { problem: Err(status), .. } => format!("status {status}"),
            Self::Final(error) => error.to_string(),
        }
    }
}

/// Attempts at one thing.
#[derive(Debug)]
pub(crate) struct Attempts {
    patience: Patience,
    made: u32,
}

impl Attempts {
    pub(crate) fn new(patience: Patience) -> Self {
        Self { patience, made: 0 }
    }

    /// The last attempt brought so much that failures before it no longer count.
    pub(crate) fn got_on(&mut self) {
        self.made = 0;
    }

    /// How long to wait before the next attempt, and why.
    ///
    /// # Errors
    /// The failure itself if it is final or the attempts are used up.
    pub(crate) fn after(&mut self, failure: Failure) -> Result<(Duration, String), HubError> {
        self.made += 1;
        let Failure::Passing { wait, .. } = &failure else { return Err(failure.into_error(self.made)) };
        if self.made >= self.patience.attempts {
            return Err(failure.into_error(self.made));
        }
        let own = self.patience.first_delay.saturating_mul(2_u32.saturating_pow(self.made - 1));
        let delay = wait.unwrap_or(own).min(self.patience.longest_delay);
        Ok((delay, failure.in_words()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn attempts() -> Attempts {
        let patience = Patience { attempts: 4, longest_delay: Duration::from_secs(3), ..Patience::default() };
        Attempts::new(patience)
    }

    fn passing(wait: Option<u64>) -> Failure {
        Failure::Passing { url: "u".to_owned(), problem: Err(503), wait: wait.map(Duration::from_secs) }
    }

    #[test]
    fn delays_double_until_the_attempts_are_used_up() {
        let mut attempts = attempts();
        let delays: Vec<u128> = (0..3).map(|_| attempts.after(passing(None)).unwrap().0.as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000]);
        let error = attempts.after(passing(None)).unwrap_err();
        assert!(matches!(error, HubError::Status { status: 503, attempts: 4, .. }), "{error}");
    }

    #[test]
    fn a_server_is_left_alone_as_long_as_it_asks_within_limits() {
        assert_eq!(attempts().after(passing(Some(2))).unwrap().0, Duration::from_secs(2));
        assert_eq!(attempts().after(passing(Some(u64::MAX))).unwrap().0, Duration::from_secs(3));
    }

    #[test]
    fn what_gets_on_may_fail_for_ever_and_what_is_final_never() {
        let mut attempts = attempts();
        for _ in 0..9 {
            attempts.after(passing(None)).unwrap();
            attempts.got_on();
        }
        attempts.after(Failure::Final(HubError::NotFound { url: "u".to_owned() })).unwrap_err();
    }
}
