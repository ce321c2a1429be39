//! Migrations of a mesh that is made up: harm is taken back, and a tool that dies at any step leaves what can be taken up.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

use reeve_control::migration::{PlanFile, Target, Window, WorkloadKey};

use super::*;
use crate::verb::mtls::journal::WaveState;

/// What stays when the tool dies.
#[derive(Debug, Default)]
struct Mesh {
    /// Waves whose modes are STRICT in the configuration.
    flipped: BTreeSet<String>,
    /// The journal as it is on the disk.
    kept: Option<Journal>,
    /// Waves that were settled since the last change.
    settled: Option<String>,
    recorded: Vec<String>,
    /// Calls to the mesh so far.
    calls: usize,
}

#[derive(Clone, Copy)]
enum Blind {
    Silent,
    Unreadable,
}

struct Fake {
    mesh: Rc<RefCell<Mesh>>,
    /// Dies at that call.
    dies_at: usize,
    /// Refused connections per look once this wave is flipped.
    harms: Option<&'static str>,
    obstacle: Option<&'static str>,
    /// Once something is flipped, no sidecar answers, or what runs cannot be read.
    blind: Option<Blind>,
    looks: u64,
    /// When somebody wants it to end.
    stop_after: Option<Duration>,
}

impl Fake {
    /// One more call that reaches the outside; death, if it is that one's turn.
    fn step(&self) -> Result<(), Problem> {
        let mut mesh = self.mesh.borrow_mut();
        mesh.calls += 1;
        match mesh.calls == self.dies_at {
            true => Err(Problem::new("killed")),
            false => Ok(()),
        }
    }
}

impl Stage for Fake {
    fn now(&self) -> UnixTime {
        UnixTime::from_secs(1_000)
    }

    async fn settled(&mut self, wave: &PlannedWave) -> Result<(), Problem> {
        self.step()?;
        self.mesh.borrow_mut().settled = Some(wave.name.clone());
        Ok(())
    }

    fn obstacles(&mut self, _wave: &PlannedWave) -> Result<Vec<String>, Problem> {
        self.step()?;
        Ok(self.obstacle.map(str::to_owned).into_iter().collect())
    }

    async fn look(&mut self, wave: &PlannedWave) -> Result<Look, Problem> {
        self.step()?;
        let harmed =
            self.harms == Some(&wave.name) && self.mesh.borrow().flipped.contains(&wave.name);
        self.looks += u64::from(harmed);
        let flipped = !self.mesh.borrow().flipped.is_empty();
        let asked = match self.blind.filter(|_| flipped) {
            None => 1,
            Some(Blind::Silent) => 0,
            Some(Blind::Unreadable) => return Err(Problem::new("instances.json: not JSON")),
        };
        Ok(Look {
            refused: self.looks.saturating_sub(1),
            asked,
            ..Look::default()
        })
    }

    fn edits(&mut self, wave: &PlannedWave) -> Result<Vec<Edit>, Problem> {
        Ok(vec![Edit::Create {
            file: wave.name.clone(),
            text: String::new(),
        }])
    }

    fn is_flipped(&mut self, wave: &PlannedWave) -> Result<bool, Problem> {
        Ok(self.mesh.borrow().flipped.contains(&wave.name))
    }

    async fn flip(&mut self, wave: &PlannedWave) -> Result<Generation, Problem> {
        self.step()?;
        {
            let mut mesh = self.mesh.borrow_mut();
            let again = mesh.flipped.contains(&wave.name);
            assert!(
                again || mesh.settled.as_ref() == Some(&wave.name),
                "flipped before its senders were ready"
            );
            let kept = mesh
                .kept
                .as_ref()
                .and_then(|j| j.waves.iter().find(|w| w.name == wave.name));
            assert!(
                kept.is_some_and(|w| !w.edits.is_empty()),
                "flipped before it was written down"
            );
            assert!(
                again || mesh.recorded.contains(&format!("flip {}", wave.name)),
                "flipped off the record"
            );
            mesh.flipped.insert(wave.name.clone());
            mesh.settled = None;
        }
        self.step()?;
        Ok(Generation(7))
    }

    async fn revert(&mut self, edits: &[Edit]) -> Result<(), Problem> {
        self.step()?;
        for edit in edits {
            self.mesh.borrow_mut().flipped.remove(edit.file());
        }
        self.step()
    }

    async fn refused(&mut self, wave: &PlannedWave, _since: UnixTime) -> Vec<String> {
        match self.harms == Some(&wave.name) {
            true => vec!["workload default/old".to_owned()],
            false => Vec::new(),
        }
    }

    fn keep(&mut self, journal: &Journal) -> Result<(), Problem> {
        self.step()?;
        self.mesh.borrow_mut().kept = Some(journal.clone());
        Ok(())
    }

    async fn note(&mut self, phase: &str, wave: &str, _text: &str) -> Result<(), Problem> {
        self.step()?;
        self.mesh
            .borrow_mut()
            .recorded
            .push(format!("{phase} {wave}"));
        Ok(())
    }

    fn tell(&self, _text: &str) {}

    async fn stopped(&mut self) {
        match self.stop_after {
            Some(after) if self.mesh.borrow().flipped.is_empty() => tokio::time::sleep(after).await,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

fn workload(name: &str) -> Target {
    let key = WorkloadKey {
        namespace: "default".parse().unwrap(),
        workload: name.parse().unwrap(),
    };
    Target::Workload(key, Vec::new())
}

fn journal() -> Journal {
    let waves = ["wave-1", "wave-2"].map(|name| PlannedWave {
        name: name.to_owned(),
        targets: vec![workload(name)],
        senders: BTreeSet::new(),
    });
    let states = waves.iter().map(|wave| WaveState {
        name: wave.name.clone(),
        ..WaveState::default()
    });
    Journal {
        id: "m-1".to_owned(),
        by: "alice".to_owned(),
        note: None,
        began_at: UnixTime::from_secs(1_000),
        end: None,
        before: Vec::new(),
        after: Vec::new(),
        waves: states.collect(),
        timeline: Vec::new(),
        plan: PlanFile {
            name: "m".to_owned(),
            window: Window {
                from: UnixTime::from_secs(0),
                to: UnixTime::from_secs(900),
            },
            cycle: Duration::from_secs(60),
            waves: waves.to_vec(),
        },
    }
}

fn how() -> How {
    How {
        shadow: Duration::from_secs(2),
        hold: Duration::from_secs(2),
        max_refused: 0,
        min_success: 0.99,
        max_p99_factor: 3.0,
        p99_slack: Duration::from_millis(250),
    }
}

fn fake(mesh: &Rc<RefCell<Mesh>>) -> Fake {
    Fake {
        mesh: Rc::clone(mesh),
        dies_at: 0,
        harms: None,
        obstacle: None,
        blind: None,
        looks: 0,
        stop_after: None,
    }
}

fn phases(journal: &Journal) -> Vec<Phase> {
    journal.waves.iter().map(|wave| wave.phase).collect()
}

#[tokio::test(start_paused = true)]
async fn without_harm_every_wave_is_done() {
    let mesh = Rc::default();
    let mut journal = journal();
    drive(&how(), &mut fake(&mesh), &mut journal).await.unwrap();
    assert_eq!(journal.end, Some(End::Done));
    assert_eq!(mesh.borrow().flipped.len(), 2);
    let expected = ["shadow", "flip", "hold", "done"];
    let recorded: Vec<String> = ["wave-1", "wave-2"]
        .iter()
        .flat_map(|wave| expected.iter().map(move |phase| format!("{phase} {wave}")))
        .collect();
    assert_eq!(mesh.borrow().recorded, recorded);
}

#[tokio::test(start_paused = true)]
async fn harm_takes_its_wave_back_and_leaves_those_before_it() {
    let mesh = Rc::default();
    let mut journal = journal();
    let mut stage = Fake {
        harms: Some("wave-2"),
        ..fake(&mesh)
    };
    drive(&how(), &mut stage, &mut journal).await.unwrap();
    assert_eq!(phases(&journal), [Phase::Done, Phase::RolledBack]);
    assert_eq!(mesh.borrow().flipped, BTreeSet::from(["wave-1".to_owned()]));
    let why = journal.waves[1].why.clone().unwrap();
    assert_eq!(
        why,
        "STRICT refused 1 connections in plaintext: workload default/old"
    );
    assert!(journal.waves[1].back_after_ms.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_obstacle_or_an_interruption_in_the_shadow_changes_nothing() {
    for (obstacle, stop_after) in [
        (Some("a probe"), None),
        (None, Some(Duration::from_millis(100))),
    ] {
        let mesh = Rc::default();
        let mut journal = journal();
        let mut stage = Fake {
            obstacle,
            stop_after,
            ..fake(&mesh)
        };
        drive(&how(), &mut stage, &mut journal).await.unwrap();
        assert_eq!(phases(&journal), [Phase::Pending, Phase::Pending]);
        assert!(matches!(journal.end, Some(End::Stopped(_))));
        assert!(mesh.borrow().flipped.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn an_interruption_in_the_hold_takes_the_wave_back() {
    let mesh = Rc::default();
    let mut journal = journal();
    let mut stage = Fake {
        // Not in the shadow: nothing is flipped then.
        stop_after: Some(Duration::from_secs(3_600)),
        ..fake(&mesh)
    };
    drive(&how(), &mut stage, &mut journal).await.unwrap();
    assert_eq!(phases(&journal), [Phase::RolledBack, Phase::Pending]);
    assert!(mesh.borrow().flipped.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wave_that_nobody_can_watch_is_taken_back() {
    for (blind, told) in [
        (
            Blind::Silent,
            "none of its sidecars could be watched for 10 s",
        ),
        (Blind::Unreadable, "instances.json: not JSON"),
    ] {
        let mesh = Rc::default();
        let mut journal = journal();
        let mut stage = Fake {
            blind: Some(blind),
            ..fake(&mesh)
        };
        drive(&how(), &mut stage, &mut journal).await.unwrap();
        assert_eq!(phases(&journal), [Phase::RolledBack, Phase::Pending]);
        assert_eq!(journal.waves[0].why.as_deref(), Some(told));
        assert!(mesh.borrow().flipped.is_empty());
    }
}

/// The tool dies before or after each thing that it does: whoever comes after finishes what it had begun.
#[tokio::test(start_paused = true)]
async fn whoever_dies_at_any_step_is_taken_up() {
    let whole = Rc::default();
    drive(&how(), &mut fake(&whole), &mut journal())
        .await
        .unwrap();
    let steps = whole.borrow().calls;
    assert!(steps > 40, "{steps}");
    for dies_at in 1..=steps {
        let mesh: Rc<RefCell<Mesh>> = Rc::default();
        mesh.borrow_mut().kept = Some(journal());
        let mut stage = Fake {
            dies_at,
            ..fake(&mesh)
        };
        // What only the dead tool knew is lost. A problem, or a wave that is taken back for it, is as good as death.
        drop(drive(&how(), &mut stage, &mut journal()).await);
        mesh.borrow_mut().settled = None;
        let left = mesh.borrow().kept.clone().unwrap();
        for wave in &mesh.borrow().flipped {
            let known = left.waves.iter().find(|w| w.name == *wave).unwrap();
            assert!(
                !known.edits.is_empty(),
                "step {dies_at}: {wave} is flipped and nobody knows how"
            );
        }
        let mut taken_up = left.clone();
        taken_up.end = None;
        drive(&how(), &mut fake(&mesh), &mut taken_up)
            .await
            .unwrap();
        assert_eq!(taken_up.end, Some(End::Done), "step {dies_at}");
        assert_eq!(mesh.borrow().flipped.len(), 2, "step {dies_at}");

        // Or it is taken back instead.
        let edits: Vec<Edit> = taken_up
            .waves
            .iter()
            .flat_map(|w| w.edits.clone())
            .collect();
        fake(&mesh).revert(&edits).await.unwrap();
        assert!(mesh.borrow().flipped.is_empty(), "step {dies_at}");
    }
}

/// Nobody watched while the tool was dead, and somebody was refused: the wave is taken back when it is taken up.
#[tokio::test(start_paused = true)]
async fn harm_while_nobody_watched_is_found_when_it_is_taken_up() {
    let mesh: Rc<RefCell<Mesh>> = Rc::default();
    let mut journal = journal();
    journal.waves[0].phase = Phase::Holding;
    journal.waves[0].flipped_at = Some(UnixTime::from_secs(990));
    journal.waves[0].edits = fake(&mesh).edits(&journal.plan.waves[0].clone()).unwrap();
    mesh.borrow_mut().flipped.insert("wave-1".to_owned());
    let mut stage = Fake {
        harms: Some("wave-1"),
        ..fake(&mesh)
    };
    drive(&how(), &mut stage, &mut journal).await.unwrap();
    assert_eq!(phases(&journal), [Phase::RolledBack, Phase::Pending]);
    assert!(mesh.borrow().flipped.is_empty());
    assert!(
        journal.waves[0]
            .why
            .as_ref()
            .unwrap()
            .contains("while nobody watched")
    );
}
