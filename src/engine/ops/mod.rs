//! Our operators, domain `slmd`: the only ones that a bundle's graph may hold.
//!
//! A graph's operators are made *unbound*, from attributes alone; [`super::graph`] binds them to
//! the mapped weights and to the [`Machine`] when everything has been checked.

mod attention;
mod embed;
mod gate_up;
mod linear;
mod rope;
mod rows;

use std::sync::Arc;

use tract_onnx::prelude::{Datum, DatumExt, SpecialOps};
use tract_onnx::tract_hir::internal::{
    Expansion, InferenceResult, IntoTValue, OutletId, Solver, StaticName, TDim, TValue, TVec,
    Tensor, TensorProxy, ToDim, TractResult, TypedFact, TypedModel, TypedOp, bail, tvec,
};

pub(crate) use attention::{Attention, AttentionSpec, Cache};
pub(crate) use embed::{Embed, EmbedSpec};
pub(crate) use gate_up::{GateUp, GateUpSpec};
pub(crate) use linear::{Linear, LinearSpec};
pub(crate) use rope::Rope;
pub(crate) use rows::MAX_PLANES;

use super::kernels::Kernels;
use super::kernels::layout::Format;
use super::kernels::pool::Pool;

/// What computes: the CPU's kernels and the threads.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) kernels: Kernels,
    pub(crate) pool: Pool,
}

/// Bytes of the weights' file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// A matrix as a graph names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MatrixSpec {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) format: Format,
    pub(crate) extent: Extent,
}

/// The normalisation before a linear.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NormSpec {
    pub(crate) weights: Extent,
    pub(crate) epsilon: f32,
}

#[derive(Debug, Clone)]
pub(crate) struct Norm {
    pub(crate) weights: Arc<[f32]>,
    pub(crate) epsilon: f32,
}

/// An operator on its way from the inference graph to the typed one.
#[derive(Debug, Clone)]
pub(crate) struct Unbound<O> {
    op: O,
    width: usize,
    last: bool,
}

impl<O: TypedOp + Clone> Unbound<O> {
    /// An operator whose rows have `width` floats; `last`: it gives the last row only.
    pub(crate) fn new(op: O, width: usize, last: bool) -> Unbound<O> {
        Unbound { op, width, last }
    }
}

impl<O: TypedOp + Clone> Expansion for Unbound<O> {
    fn name(&self) -> StaticName {
        self.op.name()
    }

    #[expect(single_use_lifetimes, reason = "the trait's signature")]
    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&outputs[0].datum_type, f32::datum_type())?;
        solver.equals(&outputs[0].rank, 3)?;
        solver.equals(&outputs[0].shape[0], 1.to_dim())?;
        if self.last {
            solver.equals(&outputs[0].shape[1], 1.to_dim())?;
        } else {
            solver.equals(&outputs[0].shape[1], &inputs[0].shape[1])?;
        }
        solver.equals(&outputs[0].shape[2], self.width.to_dim())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.op.clone(), inputs)
    }
}

/// The output's fact: as many rows as the input, or one.
fn output_fact(inputs: &[&TypedFact], width: usize, last: bool) -> TractResult<TVec<TypedFact>> {
    let Some(rows) = inputs.first().and_then(|fact| fact.shape.get(1)) else {
        bail!("an operator without an input of rows");
    };
    let rows: TDim = if last { 1.to_dim() } else { rows.clone() };
    TractResult::Ok(tvec!(f32::fact([1.to_dim(), rows, width.to_dim()])))
}

/// An operator's input as whole rows of `width` floats.
fn float_rows(input: &TValue, width: usize) -> TractResult<&[f32]> {
    let floats = input.try_as_plain_ram()?.as_slice::<f32>()?;
    if floats.is_empty() || !floats.len().is_multiple_of(width) {
        bail!("{} floats are not rows of {width}", floats.len());
    }
    TractResult::Ok(floats)
}

/// A tensor of `rows` rows that `fill` computes.
fn output(
    rows: usize,
    width: usize,
    fill: impl FnOnce(&mut [f32]) -> TractResult<()>,
) -> TractResult<TVec<TValue>> {
    let mut tensor = Tensor::zero::<f32>(&[1, rows, width])?;
    fill(tensor.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?)?;
    TractResult::Ok(tvec!(tensor.into_tvalue()))
}

/// A bound operator's parts.
fn bound<T>(parts: Option<&T>) -> TractResult<&T> {
    match parts {
        Some(parts) => TractResult::Ok(parts),
        None => bail!("the operator has no weights yet"),
    }
}

/// What tract asks of every operator. Two are equal only when they are the same, so that tract
/// never merges any.
macro_rules! operator {
    ($type:ident, $name:literal) => {
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                std::ptr::eq(self, other)
            }
        }

        impl Eq for $type {}

        impl Op for $type {
            fn name(&self) -> StaticName {
                $name.into()
            }

            op_as_typed_op!();
        }

        impl TypedOp for $type {
            fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
                super::output_fact(inputs, self.spec.width(), self.spec.last())
            }

            as_op!();
        }
    };
}
use operator;
