#!/usr/bin/env bash
# Breaks the code in one place at a time and runs the test that must notice: a check that cannot fail is no check.
# Usage: make mutants [MUTANT=name]. Works in a copy; prints one line per mutant; fails if one survives.
set -euo pipefail
cd "$(dirname "$0")/.."

# name | test that must fail | file | sed expression
MUTANTS=$(cat <<'LIST'
adopt-by-name                | crash_matrix | src/key/secret.rs | s/owner\.uid == uid/Some(\&owner.name) == key.metadata.name.as_ref()/
status-before-secret         | a_new_key_takes_two_writes_in_this_order | src/key/plan.rs | s/if observed\.refusal\.is_none()$/if observed.refusal.is_none() \&\& observed.key.status.as_ref().is_some_and(|s| s.observed_generation != Some(-1))/
secret-before-confirmation   | stale_cache_never_replaces_a_key_twice | src/controller/reconcile.rs | s/Step::ReplaceKey { \.\. } if !self\.confirmed/Step::ReplaceKey { .. } if false/
status-without-precondition  | stale_cache_after_a_restart_does_no_harm | src/controller/write.rs | s/"metadata": { "resourceVersion": key\.metadata\.resource_version }/"metadata": {}/
own-writes-not-waited-for    | stale_cache_is_not_acted_on_before_it_shows_our_own_writes | src/controller/unseen.rs | s/let left = PATIENCE/let left = Duration::ZERO/
relist-not-looked-at         | unobserved_deletion_of_a_secret_is_made_up_for | src/controller/mod.rs | /reconcile_all_on(watched\.relists)/d
failure-not-tried-again      | api_faults | src/controller/reconcile.rs | s/Action::requeue(wait)$/Action::await_change()/
retry-not-held               | a_refusal_in_ever_new_words_is_no_hot_loop | src/controller/retry.rs | s/(waiting\.seen == \*seen && !left\.is_zero())/(false \&\& waiting.seen == *seen \&\& !left.is_zero())/
retry-after-ignored          | an_api_server_that_asks_to_be_left_alone_is | src/controller/retry.rs | s/\.max(asked\.unwrap_or_default())/.max(asked.map_or(Duration::ZERO, |_| Duration::ZERO))/
event-cancels-expiry         | expiry_is_shown_within_a_second | src/key/plan.rs | s/Step::Wait(Until::Moment(expiry\.map_or(latest, |moment| moment\.min(latest))))/Step::Wait(expiry.map_or(Until::Moment(latest), |_| Until::Change))/
woken-is-expired             | a_settled_key_waits_for_its_expiry_and_wakes_just_after | src/key/state.rs | s/if now > ledger/if now >= ledger/
revoked-wins-over-expired    | revoked_key_that_expires_reads_expired | src/key/state.rs | s/if now > ledger\.expires\.instant()/if !spec.revoked \&\& now > ledger.expires.instant()/
clock-steps-ignored          | expiry_clock_follows_steps_of_the_wall_clock | src/controller/mod.rs | /reconcile_all_on(clock_steps)/d
foreign-taken-for-ours       | foreign_secret_is_untouched_and_conflict_heals | src/key/secret.rs | s/\.any(|owner| owner\.uid == uid)/.any(|owner| owner.uid == uid) || metadata.owner_references.is_none()/
tampering-adopted            | tampered_secret_is_replaced | src/key/plan.rs | s/Some(recorded) => recorded == found\.digest\.as_str()/Some(_) => true/
expiry-from-annotation       | annotations_of_a_secret_never_lengthen_a_life | src/key/plan.rs | s/Some(secret\.expires()?\.min(longest))/{ let _ = longest; secret.expires() }/
id-from-annotation           | drifted_metadata_comes_back_and_other_peoples_stays | src/key/plan.rs | s/id: status\.and_then(|status| KeyId::parse(status\.id\.as_deref()?))\.or_else(|| secret\.id())/id: secret.id().or_else(|| status.and_then(|status| KeyId::parse(status.id.as_deref()?)))/
ledger-reset                 | usage_in_the_status_is_read_and_never_written | src/key/report.rs | s/status\.usage_limit = key\.spec\.effective_usage_limit();/status.usage_limit = key.spec.effective_usage_limit(); status.used_times = 0;/
unwanted-labels-stay         | labels_and_annotations_of_the_secret_follow_the_spec | src/key/secret.rs | s/missing\.chain(unwanted\.map(|key| (key\.clone(), None)))\.collect()/{ drop(unwanted); missing.collect() }/
tracking-keys-let-through    | tracking_keys_never_reach_the_secret_and_user_options_do | src/api/metadata.rs | s/!RESERVED_DOMAINS\.contains(&domain)/(domain.len() > 99 || !RESERVED_DOMAINS.is_empty())/
status-on-every-pass         | settled_keys_cost_no_request | src/key/report.rs | s/status\.usage_limit = key\.spec\.effective_usage_limit();/status.usage_limit = key.spec.effective_usage_limit(); status.updated_at = status.updated_at.map(|at| at.plus_seconds(1));/
read-on-every-start          | settled_keys_cost_no_request | src/controller/observe.rs | s/is_as_recorded(key, secret)\.then_some/(is_as_recorded(key, secret) \&\& false).then_some/
key-logged-at-trace          | canary_leak | src/controller/write.rs | s/let value = new_value()?;/let value = new_value()?; tracing::trace!(key = value.expose(), "minted");/
one-bad-object-ends-all      | an_undecodable_object_stops_nobody | src/controller/reconcile.rs | s/this SetupKey cannot be read and is left alone");/gone"); context.retries.forget(\&(namespace, name)); std::process::abort();/
lost-lease-kept              | two_leaders | src/controller/election.rs | s/return Ended::Lost/continue/
lease-not-released           | two_leaders | src/controller/election.rs | s/self\.release()\.await/let _ = \&self.leases/
transition-told-twice        | each_transition_is_one_json_line | src/key/transition.rs | s/if before\.state == after\.state/if false/
conflict-told-twice          | each_transition_is_one_json_line | src/key/transition.rs | s/before\.reason == now\.reason/false/
orphan-adopted               | a_restored_backup | src/key/secret.rs | s/\.any(|owner| owner\.uid == uid)/.any(|owner| owner.uid == uid) || metadata.annotations.as_ref().is_some_and(|found| found.contains_key(ID_ANNOTATION))/
writes-while-being-deleted   | a_key_that_is_being_deleted_gets_no_new_secret | src/controller/observe.rs | s/if key\.metadata\.deletion_timestamp\.is_some()/if false/
rest-own-credentials         | the_service_lends_its_own_credentials_to_nobody | src/rest/caller.rs | s/ClientBuilder::try_from(anonymous)/{ let _ = anonymous; ClientBuilder::try_from(config.clone()) }/
rest-update-with-version     | of_two_updates_at_once_one_wins_as_a_whole_even_on_a_busy_key | src/rest/keys.rs | s/"uid": key\.metadata\.uid }/"uid": key.metadata.uid, "resourceVersion": key.metadata.resource_version }/
rest-created-unseen          | who_may_not_see_the_key_creates_none | src/rest/creation.rs | s/if !self\.may_read_secrets()\.await?/if false/
rest-state-as-reported       | the_state_in_the_answer_waits_for_nobody | src/rest/translate.rs | s/    Some(SetupKeyAnswer {/    let state = status.state.unwrap_or(state); Some(SetupKeyAnswer {/
rest-id-selects              | every_row_of_the_contract_holds | src/rest/keys.rs | s/escaped(id))/id)/
certificate-not-followed     | a_renewed_certificate_is_served_without_a_restart | src/serve/tls.rs | s/self\.config\.reload_from_config(Arc::new(self\.files\.parse(&found)?));/self.files.parse(\&found)?;/
slow-headers-waited-for      | a_client_that_does_not_finish_its_headers_is_cut | src/serve/mod.rs | s/header_read_timeout(self\.limits\.headers)/header_read_timeout(None)/
use-given-back               | pending_is_rolled_forward_never_refunded | src/key/ledger.rs | s/"usedTimes": self\.used_times/"usedTimes": self.used_times - 1/
peer-not-created             | pending_is_rolled_forward_never_refunded | src/controller/reconcile.rs | /orphans::create_peers/d
orphan-at-once               | what_is_pending_is_left_to_its_replica_for_a_while | src/controller/orphans.rs | s/if left\.is_zero()/if left.is_zero() || true/
orphan-from-the-cache        | an_entry_that_only_a_cache_still_shows | src/controller/reconcile.rs | s/let uid = self\.key\.uid();/let uid = self.key.uid(); if false {/; s/^        let Some(swap) = ledger::clear/        } let Some(swap) = ledger::clear/
freed-while-pending          | a_deleted_peer_is_not_resurrected | src/controller/peers/pass.rs | s/\.any(|entry| entry\.name == name)/.any(|entry| entry.name == name \&\& false)/
freed-with-the-key           | deleting_a_key_leaves_its_peers | src/controller/peers/pass.rs | s/Entry::Cleared if peer\.is_leaving()/_ if peer.is_leaving()/
removed-though-seen          | a_peer_that_is_seen_again_just_before_it_is_removed_stays | src/controller/peers/pass.rs | s/preconditions: Some(unchanged)/preconditions: Some(unchanged).filter(|_| false)/
third-forgotten              | an_ephemeral_peer_that_is_not_seen_is_removed_and_others_are_not | src/key/presence.rs | s/lifetime + lifetime \/ 3/lifetime/
others-removed-too           | an_ephemeral_peer_that_is_not_seen_is_removed_and_others_are_not | src/key/presence.rs | s/now > gone \&\& peer\.ephemeral/now > gone/
peers-not-counted            | a_lost_status_counts_its_peers | src/key/report.rs | s/counted\.filter/counted.filter(|_| false).filter/
uncounted-is-none            | a_lost_status_counts_its_peers | src/controller/reconcile.rs | s/\&id)\.await?);$/\&id).await.unwrap_or_default());/
peers-written-on-every-start | settled_peers_cost_no_request | src/key/presence.rs | s/Some(gone) if now > gone => PeerStep::Disconnect/Some(_) if !peer.ephemeral => PeerStep::Disconnect/
swap-over-what-was-not-seen  | revoke_race | src/enrollment/objects.rs | s/\&swap\.onto(basis))/\&{ let mut forced = swap.onto(basis); if let Ok(Some(now)) = self.key(\&(namespace.clone(), name.clone())).await { forced.metadata.resource_version = now.metadata.resource_version; } forced })/
nobody-expected              | a_machine_is_counted_once_where_the_watch_of_peers_is_behind | src/enrollment/expected.rs | s/trusted \&\& !expected$/{ let _ = expected; trusted }/
trusted-though-missed        | a_machine_is_counted_once_where_versions_of_the_key_were_missed | src/enrollment/expected.rs | s/scope\.done > scope\.keys_listed/scope.done > 0/
lost-answer-counts-again     | a_swap_whose_answer_is_lost_counts_once | src/key/ledger.rs | s/(OnRecord::Nobody, Some(entry)) if entry/(OnRecord::Nobody, Some(entry)) if false \&\& entry/; s/(_, Some(_)) if admits/(_, Some(_)) if false \&\& admits/
latest-use-forgotten         | a_lost_status_counts_its_peers | src/controller/observe.rs | s/count\.max(latest)/{ let _ = latest; count }/
enrolled-and-never-released  | a_replica_that_ends_finishes_what_it_committed | src/enrollment/admission/release.rs | s/match objects\.release(.*)\.await {/match { let _ = \&objects; Ok::<(), crate::cluster::call::Error>(()) } {/
refusal-asks-the-server      | refusals_are_byte_identical | src/enrollment/mod.rs | s/(None, Some(key)) if admits =>/(None, Some(key)) if admits || key.spec.revoked =>/
key-as-it-is-typed           | a_key_is_known_however_it_is_typed | src/enrollment/request.rs | s/\.to_uppercase()/.to_owned()/
heartbeat-always-written     | a_heartbeat_is_written_only_when_it_is_news | src/enrollment/peers.rs | s/^        !fresh$/        true/
LIST
)

tree=target/mutants/tree
rm -rf "$tree"
mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$tree"
export CARGO_TARGET_DIR="$PWD/target/mutants/build" CONTROL_PLANE_TOOLS="$PWD/target/tools" RUST_BACKTRACE=0

survivors=0
while IFS='|' read -r name test file expression; do
	name=${name// /} test=${test// /} file=${file// /} expression=${expression# }
	[[ -z ${MUTANT:-} || $MUTANT == "$name" ]] || continue
	sed -E -i.orig -e '' "$tree/$file"
	sed -i "$expression" "$tree/$file"
	log=target/mutants/$name.log
	if cmp -s "$tree/$file" "$tree/$file.orig"; then
		verdict="NOT APPLIED"
	elif (cd "$tree" && timeout 600 cargo test --quiet "$test") >"$log" 2>&1; then
		verdict="SURVIVED"
	elif grep -q '^test result: FAILED' "$log" || grep -q 'process didn.t exit successfully' "$log"; then
		verdict="caught"
	else
		verdict="NOT BUILT"
	fi
	mv "$tree/$file.orig" "$tree/$file"
	[[ $verdict == caught ]] || survivors=$((survivors + 1))
	printf '%-12s %-30s %s\n' "$verdict" "$name" "$test"
done <<<"$MUTANTS"
[[ $survivors -eq 0 ]] || { echo "$survivors mutants were not caught; logs in target/mutants"; exit 1; }
