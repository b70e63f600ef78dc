//! Runs the stories and reports the result and the time of each.

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::BoxFuture, stream};
use tokio::task::JoinSet;

use crate::{
    cluster::{Cluster, variable},
    netbird,
};

/// This many keep two cores busy.
const AT_A_TIME: usize = 4;

type Run = fn(Arc<Cluster>) -> BoxFuture<'static, ()>;

#[derive(Clone, Copy)]
pub enum Needs {
    ACluster,
    /// The story kills programs of the node, so the node must be ours.
    HandsOnTheNode,
    /// The story needs another tag of the operator's image.
    AnotherImage,
    /// The story needs NetBird's programs.
    NetBird,
}

impl Needs {
    /// Why the story cannot run here.
    fn missing(self, cluster: &Cluster) -> Option<&'static str> {
        match self {
            Needs::ACluster => None,
            Needs::HandsOnTheNode => (!cluster.is_ours()).then_some("it kills programs of the node, which is not ours"),
            Needs::AnotherImage => variable("E2E_UPGRADE_IMAGE").is_none().then_some("E2E_UPGRADE_IMAGE is not set"),
            Needs::NetBird => variable(netbird::IMAGE).is_none().then_some("E2E_NETBIRD_IMAGE is not set"),
        }
    }
}

#[derive(Clone, Copy)]
pub struct Story {
    pub name: &'static str,
    pub run: Run,
    pub needs: Needs,
}

/// A function of a module of [`crate::stories`], under its own name.
#[macro_export]
macro_rules! story {
    ($module:ident :: $name:ident) => {
        $crate::story!($module::$name, $crate::suite::Needs::ACluster)
    };
    ($module:ident :: $name:ident, $needs:expr) => {
        $crate::suite::Story {
            name: stringify!($name),
            run: |cluster| Box::pin($module::$name(cluster)),
            needs: $needs,
        }
    };
}

#[derive(Default)]
pub struct Suite {
    words: Vec<String>,
    list: bool,
    first: Option<Story>,
    side_by_side: Vec<Story>,
    one_by_one: Vec<Story>,
}

impl Suite {
    /// Arguments that are not flags are words that choose the stories; `--list` only lists the stories. Flags of other
    /// test harnesses are ignored.
    pub fn from_arguments() -> Self {
        let (flags, words): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|word| word.starts_with('-'));
        Self { words, list: flags.iter().any(|flag| flag == "--list"), ..Self::default() }
    }

    /// All other stories build on this one, so it always runs.
    pub fn first(&mut self, story: Story) {
        self.first = Some(story);
    }

    pub fn side_by_side(&mut self, stories: Vec<Story>) {
        self.side_by_side = self.chosen(stories);
    }

    pub fn one_by_one(&mut self, stories: Vec<Story>) {
        self.one_by_one = self.chosen(stories);
    }

    fn chosen(&self, mut stories: Vec<Story>) -> Vec<Story> {
        let is_chosen = |name: &str| self.words.is_empty() || self.words.iter().any(|word| name.contains(word));
        stories.retain(|story| is_chosen(story.name));
        stories
    }

    pub async fn run(self) -> ExitCode {
        if self.list {
            for story in self.first.iter().chain(&self.side_by_side).chain(&self.one_by_one) {
                println!("{}: test", story.name);
            }
            return ExitCode::SUCCESS;
        }
        let is_first = |word: &String| self.first.is_some_and(|first| first.name.contains(word));
        if self.side_by_side.is_empty() && self.one_by_one.is_empty() && !self.words.iter().any(is_first) {
            eprintln!("no story has any of these words in its name: {}", self.words.join(" "));
            return ExitCode::FAILURE;
        }
        let cluster = Arc::new(Cluster::connect().await);
        let good = tokio::select! {
            good = self.tell(&cluster) => good,
            _ = tokio::signal::ctrl_c() => false,
        };
        cluster.leave().await;
        if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    async fn tell(&self, cluster: &Arc<Cluster>) -> bool {
        let started = Instant::now();
        let first = self.first.expect("a story that the others build on");
        if tell(first, cluster).await == Outcome::Failed {
            return false;
        }
        let together = stream::iter(&self.side_by_side).map(|story| tell(*story, cluster));
        let mut outcomes: Vec<Outcome> = together.buffer_unordered(AT_A_TIME).collect().await;
        for story in &self.one_by_one {
            outcomes.push(tell(*story, cluster).await);
        }
        let count = |outcome| outcomes.iter().filter(|one| **one == outcome).count();
        let (told, failed, skipped) = (count(Outcome::Good) + 1, count(Outcome::Failed), count(Outcome::Skipped));
        println!("{told} stories ok, {failed} failed, {skipped} skipped, {:.0} s", started.elapsed().as_secs_f64());
        failed == 0
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Good,
    Failed,
    /// The story could not run here.
    Skipped,
}

async fn tell(story: Story, cluster: &Arc<Cluster>) -> Outcome {
    let name = story.name.replace('_', " ");
    if let Some(reason) = story.needs.missing(cluster) {
        println!("skipped         {name}: {reason}");
        return Outcome::Skipped;
    }
    let started = Instant::now();
    // A task of its own. Dropping the set aborts it.
    let mut task = JoinSet::new();
    task.spawn((story.run)(Arc::clone(cluster)));
    // A panic has already printed what was wrong to standard error.
    let good = task.join_next().await.is_some_and(|outcome| outcome.is_ok());
    let seconds = Duration::as_secs_f64(&started.elapsed());
    println!("{} {seconds:6.1} s  {name}", if good { "ok    " } else { "FAILED" });
    if !good {
        cluster.tell_what_is_there(story.name);
        return Outcome::Failed;
    }
    Outcome::Good
}
