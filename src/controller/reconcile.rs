//! Whether a pass over a key is made now, and what follows from its end. The pass itself is in [`pass`](super::pass).

use std::{convert::Infallible, sync::Arc, time::Instant};

use kube::{
    ResourceExt,
    runtime::{controller::Action, reflector::ObjectRef},
};

use super::{
    context::Context,
    notify::{definition_reference, secret_reference},
    pass::{Pass, shortened},
    retry::Gate,
    watch::WatchedKey,
    work::action,
};
use crate::{
    cluster::ObjectName,
    key::{
        plan::{LONGEST_SLEEP, Until, next_moment},
        transition::{Notice, Related, Severity},
    },
};

/// Makes a pass. It never fails: an error is logged and retried.
pub async fn reconcile(triggered: Arc<WatchedKey>, context: Arc<Context>) -> Result<Action, Infallible> {
    if !context.work.may_begin().await {
        return Ok(Action::await_change());
    }
    let name = ObjectName::of(&*triggered);
    let visit = context.lanes.visit(&name);
    let at_authority = context.at_authorities.visit(&name);
    if let Ok(key) = &triggered.0
        && let Some(wait) = context.wait_for_own_writes(key)
    {
        return Ok(Action::requeue(wait));
    }
    // `triggered` was taken from the cache before that wait, so it may be older than our own last write.
    let Some(watched) = context.keys.get(&ObjectRef::from_obj(&*triggered)) else {
        return Ok(Action::await_change()); // The key is gone.
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
            let secret = secret.map(|secret| secret_reference(&name.namespace, &secret.name_any()));
            context.notifier.notify_about(&*watched, secret.or_else(|| Some(definition_reference())), notice);
            context.forget(&name);
            return Ok(Action::await_change());
        }
    };
    let cached_secret = context.cached_secret(key);
    let started = Instant::now();
    let due = context.handover.look(key, started);
    let mut pass = Pass::new(&context, key, cached_secret, due.now, context.work.failures(&name));
    match context.work.gate(&name, &pass.seen()) {
        Gate::Closed(hold) => return Ok(hold),
        Gate::Called => {} // The budget limits retries.
        Gate::Open if visit.enter() && (key.spec.authority_ref.is_none() || at_authority.enter()) => {}
        Gate::Open => return Ok(Action::await_change()),
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
    Ok(action(pause.into_iter().chain(due.next).min()))
}
