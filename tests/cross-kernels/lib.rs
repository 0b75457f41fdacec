//! The kernels alone, so that they can be built for arm64 in seconds: their tests run under an
//! emulator, their loops are read by `tests/bench/mca`.

// Most of what they offer has its users in the daemon.
#![allow(dead_code, unused_imports)]

#[path = "../../src/engine/kernels/mod.rs"]
pub mod kernels;

/// Keeps the products in the compiled library, for whoever reads them there.
#[used]
static PRODUCTS: fn(
    kernels::Kernels,
    &kernels::layout::Matrix,
    std::ops::Range<usize>,
    &[kernels::layout::Block],
    &mut [f32],
) = kernels::Kernels::linear;
