//! The judge, judged: a sound run breaks no rule, and each deliberate mistake breaks the rule that is
//! there for it, and no other, with evidence that names the place.

mod accounting;
mod claims;
mod contradictions;
mod cpus;
mod direct_map;
mod findings;
mod hostile;
mod incremental;
mod kernel_half;
mod pcids;
mod propagation;
mod protection;
mod sanity;
mod scene;
mod sound;
mod stale;
mod strategies;
mod tables;
mod user_half;
