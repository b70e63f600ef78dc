//! Whether a pass over a key is made now, and what follows from its end. The pass itself is in [`pass`](super::pass).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    context::Context,
    notify::{definition_reference, secret_reference},
    pass::{Pass, shortened},
    retry::Gate,
};
use crate::{
    cluster::ObjectName,
    key::{
        plan::{LONGEST_SLEEP, Until, next_moment},
        transition::{Notice, Related, Severity},
    },
};

/// Makes a pass. It never fails: an error is logged and retried. Returns after how long to make the next one.
pub async fn reconcile(name: Arc<ObjectName>, context: Arc<Context>) -> Option<Duration> {
    if !context.work.may_begin().await {
        return None;
    }
    let visit = context.lanes.visit(&name);
    let at_authority = context.at_authorities.visit(&name);
    // Before the cache is read, so that what is read is no older than our own last write.
    if let Some(wait) = context.wait_for_key(&name) {
        return Some(wait);
    }
    let Some(watched) = context.keys.get(&name) else {
        context.forget(&name); // The key is gone.
        return None;
    };
    let key = match &watched.0 {
        Ok(key) => key,
        Err(error) => {
            let message = shortened(&format!("This SetupKey is left alone: {error}"));
            let notice = Notice {
                severity: Severity::Warning,
                reason: "NotHandled",
                action: "Reconcile",
                message,
                related: Related::Secret,
            };
            // The name of its Secret cannot be read. It may have one that was written while the key could be decoded.
            let secret = context.secret_owned_by(&watched);
            let secret = secret.map(|secret| secret_reference(&name.namespace, &secret.name));
            context.notifier.notify_about(&watched, secret.or_else(|| Some(definition_reference())), notice);
            context.forget(&name);
            return None;
        }
    };
    if let Some(wait) = context.wait_for_secret(key) {
        return Some(wait);
    }
    let cached_secret = context.cached_secret(key);
    let started = Instant::now();
    let due = context.handover.look(key, started);
    let mut pass = Pass::new(&context, key, cached_secret, due.now, context.work.failures(&name));
    match context.work.gate(&name, &pass.seen()) {
        Gate::Closed(pause) => return pause,
        Gate::Called => {} // The budget limits retries.
        Gate::Open if visit.enter() && (key.spec.authority_ref.is_none() || at_authority.enter()) => {}
        Gate::Open => return None,
    }
    let mut end = pass.run().await;
    if context.conflicts.note(&pass.key, &pass.secret, started)
        && let Ok(Until::Retry) = end
    {
        end = Ok(Until::RetryAfter(LONGEST_SLEEP)); // The watch of conflicts ends the pause.
    }
    let now = context.clock.now();
    let handover = due.next.and_then(|next| Some(now + chrono::Duration::from_std(next).ok()?));
    let deadline = next_moment(&pass.key, now).into_iter().chain(handover).min();
    let (result, pause) = context.work.conclude(&name, pass.seen(), end, deadline);
    context.metrics.passed(result, started.elapsed());
    pause.into_iter().chain(due.next).min()
}
