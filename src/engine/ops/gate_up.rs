//! `GateUp`: normalisation, gate and up matrices, and SiLU of the one times the other.

use std::sync::Arc;

use tract_onnx::tract_core::{as_op, not_out_of_plan, op_as_typed_op};
use tract_onnx::tract_hir::internal::{
    EvalContext, EvalOp, Op, StaticName, TValue, TVec, TractResult, TypedFact, TypedOp,
};

use super::super::kernels::layout::Matrix;
use super::{Machine, MatrixSpec, Norm, NormSpec, bound, float_rows, operator, output, rows};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GateUpSpec {
    pub(crate) gate: MatrixSpec,
    pub(crate) up: MatrixSpec,
    pub(crate) norm: NormSpec,
    /// Planes of the activations.
    pub(crate) planes: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct GateUp {
    spec: GateUpSpec,
    parts: Option<Parts>,
}

#[derive(Debug, Clone)]
struct Parts {
    gate: Matrix,
    up: Matrix,
    norm: Norm,
    machine: Arc<Machine>,
}

impl GateUpSpec {
    pub(super) fn width(&self) -> usize {
        self.gate.rows
    }

    #[expect(clippy::unused_self, reason = "the operators' common shape")]
    pub(super) fn last(&self) -> bool {
        false
    }
}

impl GateUp {
    pub(crate) fn new(spec: GateUpSpec) -> GateUp {
        GateUp { spec, parts: None }
    }

    pub(crate) fn spec(&self) -> GateUpSpec {
        self.spec
    }

    pub(crate) fn bind(&mut self, gate: Matrix, up: Matrix, norm: Norm, machine: Arc<Machine>) {
        self.parts = Some(Parts {
            gate,
            up,
            norm,
            machine,
        });
    }
}

operator!(GateUp, "GateUp");

impl EvalOp for GateUp {
    not_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let Parts {
            gate,
            up,
            norm,
            machine,
        } = bound(self.parts.as_ref())?;
        let (columns, width) = (gate.columns(), gate.rows());
        let x = float_rows(&inputs[0], columns)?;
        let count = x.len() / columns;
        let quantised = rows::quantise(machine, x, columns, Some(norm), self.spec.planes);
        let tile = (count, rows::strip(machine, width, count));
        output(count, width, |out| {
            machine.pool.tiles(out, width, tile, &|mut tile| {
                rows::pieces(&mut tile, &quantised, |tile, t, columns, [gates, ups]| {
                    let (rows, cut) = (t.clone(), columns.clone());
                    let gates = rows::multiply(machine, gate, &quantised, rows, cut, gates);
                    let (rows, cut) = (t.clone(), columns.clone());
                    let ups = rows::multiply(machine, up, &quantised, rows, cut, ups);
                    machine.kernels.swiglu(gates, ups);
                    for (t, values) in t.zip(gates.chunks_exact(columns.len())) {
                        tile.part(t, columns.clone()).copy_from_slice(values);
                    }
                });
            });
            TractResult::Ok(())
        })
    }
}
