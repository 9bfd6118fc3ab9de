//! The demo's report.

use ipa_metrics::{Chart, Column, Interval, Picture, Report, ScoredPicture, Series, encode_png};
use ipa_pocket::{Subject, SubjectScene};

use super::evaluation::{Comparison, Measure};
use super::pictures::{COLUMNS, Grid, SIDE, Shown};
use super::{DemoReport, Seconds, SeedRun};
use crate::check::{Checked, SCALE};

/// The page that one looks at.
pub(crate) fn html(report: &DemoReport, checks: &[Checked], grid: &Grid) -> String {
    let mut page = Report::new("An image-prompt adapter from five pictures", "Pocket model, classic adapter");
    let subject = report.subject.word();
    page.paragraph(&format!(
        "The base model has never seen a {subject}. Before: the pocket model's own adapter. After: the same, trained \
         for {} steps on the five pictures below. All pictures after them are drawn from {subject}s that were not \
         trained on.",
        report.losses.len()
    ));
    page.pictures("Trained on", &training_pictures(report.subject));
    strengths(&mut page, grid);
    measures(&mut page, report);
    checked(&mut page, checks);
    training(&mut page, report);
    try_next(&mut page, report, checks);
    page.to_html()
}

fn training_pictures(subject: Subject) -> Vec<Picture> {
    let picture = |scene: SubjectScene| Picture { label: scene.caption(), png: encode_png(&scene.render(SIDE)) };
    subject.training().into_iter().map(picture).collect()
}

fn strengths(page: &mut Report, grid: &Grid) {
    let reference = Column { group: String::new(), label: "reference".to_owned() };
    let columns: Vec<Column> = std::iter::once(reference).chain(COLUMNS.map(column)).collect();
    let labels: Vec<String> = (1..=grid.rows.len()).map(|row| format!("held-out {row}")).collect();
    let cells: Vec<Vec<Option<Vec<u8>>>> = grid
        .references
        .iter()
        .zip(&grid.rows)
        .map(|(reference, row)| {
            std::iter::once(reference).chain(row).map(|picture| Some(encode_png(picture))).collect()
        })
        .collect();
    page.section("Before and after");
    page.paragraph(
        "Drawn without any text, from the same noise along each row. λ is the strength of the image prompt; at 0 the \
         adapter adds nothing, before as after.",
    );
    page.picture_grid(&labels, &columns, &cells);
}

fn column(shown: Shown) -> Column {
    let of = |group: &str, scale: f64| Column { group: group.to_owned(), label: format!("λ = {scale}") };
    match shown {
        Shown::Plain => Column { group: String::new(), label: "without image prompt, λ = 0".to_owned() },
        Shown::Before(scale) => of("before the training", scale),
        Shown::After(scale) => of("after it", scale),
    }
}

fn measures(page: &mut Report, report: &DemoReport) {
    let comparison = &report.comparison;
    page.section("Measured");
    page.paragraph(&format!(
        "Over {} held-out pictures, {} drawn from each, λ = 1, no text. CLIP-I is the cosine of picture and reference \
         in a CLIP that is not the adapter's own; the colours are judged from pixels. In brackets: 95 % bootstrap \
         intervals over the references, the difference paired.",
        comparison.num_references, comparison.num_pictures
    ));
    for sentence in comparison.sentences() {
        page.paragraph(&sentence);
    }
    let row = |name: &str, Measure { before, after, difference, .. }: &Measure| {
        let cell = |interval: &Interval| format!("{interval:.3}");
        vec![name.to_owned(), cell(before), cell(after), cell(difference)]
    };
    let both = |comparison: &Comparison, of: &str| {
        [
            row(&format!("CLIP-I{of}"), &comparison.clip_i),
            row(&format!("Subject's colour found{of}"), &comparison.subject_color),
        ]
    };
    let mut rows = both(comparison, "").to_vec();
    if report.runs.len() > 1 {
        let of_runs = report.runs.iter().flat_map(|run| both(&run.comparison, &format!(", seed {}", run.seed)));
        rows.extend(of_runs);
        page.paragraph(&format!(
            "Trained and drawn {} times; a reference counts as its mean over the runs.",
            report.runs.len()
        ));
    }
    page.table(&["measure", "before", "after", "difference"], &rows);
}

fn checked(page: &mut Report, checks: &[Checked]) {
    let case = |Checked { case, picture, score, .. }: &Checked| ScoredPicture {
        name: case.name.clone(),
        prompt: case.prompt.clone(),
        reference: encode_png(&case.reference),
        drawn: encode_png(picture),
        score: *score,
    };
    page.section("Checked");
    page.paragraph(&format!(
        "Drawn after the training from held-out pictures with their captions as prompts, at λ = {SCALE}, which leaves \
         room for the prompt."
    ));
    page.scored_pictures(&checks.iter().map(case).collect::<Vec<_>>());
}

fn training(page: &mut Report, report: &DemoReport) {
    page.section("Training");
    let series = |run: &SeedRun| Series {
        name: if report.runs.len() == 1 { "loss".to_owned() } else { format!("seed {}", run.seed) },
        points: (1..).zip(&run.losses).map(|(step, loss)| (f64::from(step), *loss)).collect(),
    };
    page.chart(&Chart::new("Loss", ["step", "loss"], report.runs.iter().map(series).collect()).smoothed(25));
    let (settings, Seconds { training, evaluation, drawing, total }) = (&report.settings, report.seconds);
    let seconds = |seconds: f64| format!("{seconds:.1} s");
    let mut facts = vec![
        ("Steps", report.losses.len().to_string()),
        ("Epochs", settings.schedule.epochs.to_string()),
        ("Pictures a step", settings.schedule.batch.to_string()),
        ("Resolution", format!("{0} × {0}", settings.data.resolution)),
        ("Learning rate", settings.optimizer.learning_rate.to_string()),
        ("Weight decay", settings.optimizer.weight_decay.to_string()),
        ("Seed", settings.seed.to_string()),
        ("Training", seconds(training)),
        ("Evaluation", seconds(evaluation)),
        ("Drawing", seconds(drawing)),
        ("In all", seconds(total)),
    ];
    facts.extend(report.machine.facts());
    page.key_values(&facts);
}

/// The paths start at the page's folder: wherever it is, the page is the same.
fn try_next(page: &mut Report, report: &DemoReport, checks: &[Checked]) {
    page.section("Try it");
    page.file(report.adapter, "the trained adapter, in the published layout");
    page.paragraph("In the folder of this page:");
    let prompt = checks.first().map_or(report.subject.word(), |checked| checked.case.prompt.as_str());
    page.command(&format!(
        "ipa generate --model pocket --adapter {} \\\n  \
         --image pictures/held-out-1.png --prompt \"{prompt}\" --scale {SCALE} \\\n  --output mine.png",
        report.adapter
    ));
}

#[cfg(test)]
mod tests {
    use image::RgbImage;
    use ipa_metrics::CaseScore;
    use ipa_train::TrainConfig;

    use super::super::evaluation::Pair;
    use super::super::machine::Machine;
    use super::super::{ADAPTER, CheckReport};
    use super::*;
    use crate::evaluate::cases::Case;

    fn measure(difference: [f64; 3]) -> Measure {
        let interval = |[mean, low, high]: [f64; 3]| Interval { mean, low, high };
        let before = interval([0.5, 0.4, 0.6]);
        let after = Interval { mean: before.mean + difference[0], ..before };
        let per_reference = vec![Pair { before: 0.5, after: after.mean }];
        Measure { before, after, difference: interval(difference), per_reference }
    }

    fn comparison() -> Comparison {
        Comparison {
            num_references: 20,
            num_pictures: 3,
            clip_i: measure([0.2, 0.1, 0.3]),
            subject_color: measure([0.01, -0.1, 0.1]),
        }
    }

    /// A demo of three steps on a machine that does not exist.
    fn made_up() -> (DemoReport, Vec<Checked>, Grid) {
        let picture = || RgbImage::from_pixel(8, 8, image::Rgb([1, 2, 3]));
        let score = CaseScore::new(0.75, 0.25);
        let case = Case { name: "test 1".to_owned(), reference: picture(), prompt: "a <pip>".to_owned(), scene: None };
        let (name, prompt) = (case.name.clone(), case.prompt.clone());
        let report = DemoReport {
            adapter: ADAPTER,
            subject: Subject::Pip,
            settings: TrainConfig::mini(64),
            losses: vec![0.3, 0.2, 0.1],
            comparison: comparison(),
            runs: vec![SeedRun { seed: 0, losses: vec![0.3, 0.2, 0.1], comparison: comparison() }],
            checks: vec![CheckReport { case: name, prompt, score }],
            mapping: ipa_metrics::MAPPING,
            seconds: Seconds { training: 1.0, evaluation: 2.0, drawing: 3.0, total: 6.5 },
            machine: Machine {
                device: "cpu".to_owned(),
                dtype: "f32",
                threads: 2,
                cores: Some(4),
                processor: Some("Abacus 3000".to_owned()),
                memory_bytes: None,
                system: "linux x86_64".to_owned(),
                program: "ipa",
            },
        };
        let grid = Grid { references: vec![picture()], rows: vec![COLUMNS.map(|_| picture()).to_vec()] };
        (report, vec![Checked { case, picture: picture(), score, embedding: Vec::new() }], grid)
    }

    #[track_caller]
    fn assert_shown(times: usize, words: &str) {
        let (report, checks, grid) = made_up();
        let html = html(&report, &checks, &grid);
        assert_eq!(html.matches(words).count(), times, "`{words}`");
    }

    #[test]
    fn before_and_after_are_explained_and_set_side_by_side() {
        assert_shown(1, "After: the same, trained for 3 steps");
        for column in ["without image prompt, λ = 0", "before the training, λ = 0.5", "after it, λ = 1"] {
            assert_shown(1, &format!("alt=\"held-out 1, {column}\""));
        }
        assert_shown(1, ">before the training</th>");
    }

    #[test]
    fn a_difference_that_could_be_chance_is_called_so() {
        assert_shown(1, "CLIP-I: 0.500 before, 0.700 after");
        assert_shown(1, "(could be chance)");
        assert_shown(1, "Over 20 held-out pictures, 3 drawn from each");
    }

    #[test]
    fn scores_stand_with_their_pictures() {
        for label in ["reference", "drawn"] {
            assert_shown(1, &format!("alt=\"test 1, {label}\""));
        }
        assert_shown(1, "aria-label=\"Grade C\"");
        assert_shown(1, ipa_metrics::MAPPING);
    }

    #[test]
    fn facts_are_what_the_machine_tells() {
        for fact in ["Abacus 3000", "64 × 64", "6.5 s"] {
            assert_shown(1, fact);
        }
        assert_shown(0, ">Memory</dt>");
    }

    #[test]
    fn the_adapter_is_at_hand() {
        assert_shown(1, "href=\"ip_adapter.safetensors\"");
        assert_shown(1, "--adapter ip_adapter.safetensors \\\n  --image pictures/held-out-1.png");
        assert_shown(0, "<pip>");
    }

    #[test]
    fn the_numbers_of_the_report_have_names() {
        let json = serde_json::to_value(made_up().0).expect("plain numbers and names");
        assert_eq!(json["seconds"]["total"], 6.5);
        assert_eq!(json["machine"]["device"], "cpu");
        assert_eq!([&json["checks"][0]["case"], &json["checks"][0]["grade"]], ["test 1", "C"]);
        assert_eq!(json["comparison"]["clip_i"]["per_reference"][0]["before"], 0.5);
        assert_eq!(json["adapter"], ADAPTER);
    }
}
