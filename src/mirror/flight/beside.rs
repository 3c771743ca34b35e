//! Who is asked beside an upstream that does not answer.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

/// What is `asked` brings; or, where that fails so that somebody else may stand in, or brings nothing for as long as one is
/// patient, what comes from who is asked `instead`. Whoever has it first gives it.
///
/// # Errors
/// What failed, where nobody stands in.
pub(crate) async fn or_instead<T, E>(
    patience: Duration,
    asked: impl Future<Output = Result<T, E>>,
    may_stand_in: impl Fn(&E) -> bool,
    instead: impl Future<Output = Option<T>>,
) -> Result<T, E> {
    let (mut asked, mut instead) = (pin!(asked), pin!(instead));
    let failed = match timeout(patience, &mut asked).await {
        Ok(answer) => answer,
        Err(_) => tokio::select! {
            answer = &mut asked => answer,
            found = &mut instead => match found {
                Some(found) => return Ok(found),
                None => return asked.await,
            },
        },
    };
    match failed {
        Err(error) if may_stand_in(&error) => instead.await.ok_or(error),
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{Instant, sleep};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    async fn after<T>(time: Duration, answer: T) -> T {
        sleep(time).await;
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_or_says_nothing_is_stood_in_for_and_who_answers_is_not() {
        let may = |error: &&str| *error == "away";
        let (never, soon, late) = (pending::<Option<u8>>, PATIENCE / 2, PATIENCE * 3);
        assert_eq!(or_instead(PATIENCE, after(soon, Ok(1)), may, never()).await, Ok(1));
        assert_eq!(or_instead(PATIENCE, after(late, Ok(1)), may, never()).await, Ok(1), "late, and nobody else");
        assert_eq!(or_instead(PATIENCE, after(late, Ok(1)), may, ready(None)).await, Ok(1));
        assert_eq!(or_instead(PATIENCE, after(soon, Err("no")), may, ready(Some(2))).await, Err("no"));
        assert_eq!(or_instead(PATIENCE, after(late, Err("no")), may, never()).await, Err("no"));
        for fails in [soon, late] {
            let (began, found) = (Instant::now(), after(PATIENCE * 5, Some(2)));
            assert_eq!(or_instead(PATIENCE, after(fails, Err("away")), may, found).await, Ok(2));
            assert_eq!(began.elapsed(), fails.min(PATIENCE) + PATIENCE * 5, "nobody is asked before that");
            assert_eq!(or_instead(PATIENCE, after(fails, Err("away")), may, ready(None::<u8>)).await, Err("away"));
        }
        assert_eq!(or_instead(PATIENCE, pending(), may, after(soon, Some(2))).await, Ok(2));
    }
}
