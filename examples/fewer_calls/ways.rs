//! Ways to draw the same with fewer or shorter calls.

use ipa::GenerateRequest;
use ipa::sample::Fast;

/// One of them.
pub(crate) struct Way {
    pub(crate) name: String,
    /// All but prompt, references and seed.
    pub(crate) request: GenerateRequest,
}

/// All of them, the plain one first.
pub(crate) fn all(base: &GenerateRequest) -> Vec<Way> {
    let way = |name: String, change: &dyn Fn(&mut GenerateRequest)| {
        let mut request = base.clone();
        change(&mut request);
        Way { name, request }
    };
    let steps = base.num_steps;
    let mut ways = vec![way(format!("plain, {steps} steps"), &|_| {})];
    for end in [0.8, 0.6, 0.4] {
        ways.push(way(format!("guided for {end}"), &|request| request.guidance_end = end));
    }
    for (interval, branch) in [(2, 0), (2, 2), (3, 0), (3, 2), (5, 0)] {
        ways.push(way(format!("features of every {interval} calls, branch {branch}"), &|request| {
            (request.cache_interval, request.cache_branch) = (interval, branch);
        }));
    }
    for num_steps in [20, 15, 10] {
        ways.push(way(format!("{num_steps} steps"), &|request| request.num_steps = num_steps));
    }
    for num_steps in [steps, 20] {
        ways.push(way(format!("dpm++2m, {num_steps} steps"), &|request| {
            (request.scheduler, request.num_steps) = (Some("dpm++2m".to_owned()), num_steps);
        }));
    }
    for fast in Fast::ALL {
        ways.push(way(format!("--fast {fast}"), &|request| fast.fill(request, |_| false)));
    }
    ways.push(way(format!("--fast --steps {steps}"), &|request| {
        Fast::Default.fill(request, |field| field == "num_steps");
    }));
    ways
}
