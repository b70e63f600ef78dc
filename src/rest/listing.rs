//! The answer to a list. Keys are translated a page at a time, and all lists together have a bound.
//!
//! A list costs as much as there are keys, and its client may read the answer slowly. Without a bound, thirty clients at
//! a time would end the process.

use std::{pin::pin, sync::Arc};

use axum::{
    body::Bytes,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    keys::CallerKeys,
    refusal::{JSON_UTF8, Refusal},
    translate,
};

/// Lists that read keys at the same time. A page of keys costs up to some 25 MiB while it is decoded.
const UNDER_WAY: usize = 4;

/// Memory for all answers that are being made or sent, in KiB: 64 MiB, enough for 100,000 keys in one answer.
const BUDGET: usize = 64 * 1024;

const KIB: usize = 1024;

/// The bound on all lists. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Lists {
    places: Arc<Semaphore>,
    budget: Arc<Semaphore>,
}

impl Default for Lists {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(UNDER_WAY)), budget: Arc::new(Semaphore::new(BUDGET)) }
    }
}

impl Lists {
    /// Lists the keys of a caller, or refuses to while there is no room for another list.
    pub async fn answer(&self, keys: &CallerKeys, now: DateTime<Utc>) -> Result<Response, Refusal> {
        let _place = self.places.try_acquire().map_err(|_| Refusal::Busy)?;
        let mut pages = pin!(keys.pages());
        let mut answer = Answer::new(Arc::clone(&self.budget));
        while let Some(page) = pages.try_next().await? {
            page.iter().filter_map(|key| translate::answer(key, now)).try_for_each(|key| answer.push(&key))?;
        }
        Ok(answer.into_response())
    }
}

/// A JSON array in the making, and its share of the budget, which is given back once the answer is sent.
struct Answer {
    text: Vec<u8>,
    budget: Arc<Semaphore>,
    share: Option<OwnedSemaphorePermit>,
}

impl Answer {
    fn new(budget: Arc<Semaphore>) -> Self {
        Self { text: b"[".to_vec(), budget, share: None }
    }

    fn push(&mut self, item: &impl serde::Serialize) -> Result<(), Refusal> {
        if self.text.len() > 1 {
            self.text.push(b',');
        }
        serde_json::to_writer(&mut self.text, item).expect("an answer is plain data");
        let held = self.share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let needed = self.text.capacity().div_ceil(KIB);
        if needed > held {
            let more = u32::try_from(needed - held).map_err(|_| Refusal::Busy)?;
            let more = Arc::clone(&self.budget).try_acquire_many_owned(more).map_err(|_| Refusal::Busy)?;
            match &mut self.share {
                Some(share) => share.merge(more),
                None => self.share = Some(more),
            }
        }
        Ok(())
    }
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl IntoResponse for Answer {
    fn into_response(mut self) -> Response {
        self.text.push(b']');
        ([(CONTENT_TYPE, JSON_UTF8)], Bytes::from_owner(self)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_its_share_until_it_is_sent() {
        let budget = Arc::new(Semaphore::new(8));
        let mut answer = Answer::new(Arc::clone(&budget));
        answer.push(&"a".repeat(3000)).unwrap();
        let left = budget.available_permits();
        assert!(left < 6, "{left} KiB are left");
        let mut beyond = Answer::new(Arc::clone(&budget));
        assert!(matches!(beyond.push(&"b".repeat(7000)), Err(Refusal::Busy)));
        drop(beyond);
        assert_eq!(budget.available_permits(), left);
        let sent = answer.into_response();
        assert_eq!(budget.available_permits(), left);
        drop(sent);
        assert_eq!(budget.available_permits(), 8);
    }

    #[test]
    fn it_is_a_json_array() {
        let text = |items: &[&str]| {
            let mut answer = Answer::new(Arc::new(Semaphore::new(8)));
            items.iter().for_each(|item| answer.push(item).unwrap());
            answer.text.push(b']');
            String::from_utf8(answer.text).unwrap()
        };
        assert_eq!(text(&[]), "[]");
        assert_eq!(text(&["a", "b"]), r#"["a","b"]"#);
    }
}
