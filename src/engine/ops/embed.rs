//! `Embed`: token ids to rows of the embedding matrix, which is also the head's.

use tract_onnx::tract_core::{as_op, not_out_of_plan, op_as_typed_op};
use tract_onnx::tract_hir::internal::{
    EvalContext, EvalOp, Op, StaticName, TValue, TVec, TractResult, TypedFact, TypedOp, bail,
};

use super::super::kernels::layout::Matrix;
use super::{MatrixSpec, bound, operator, output};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct EmbedSpec {
    pub(crate) matrix: MatrixSpec,
}

#[derive(Debug, Clone)]
pub(crate) struct Embed {
    spec: EmbedSpec,
    matrix: Option<Matrix>,
}

impl EmbedSpec {
    pub(super) fn width(&self) -> usize {
        self.matrix.columns
    }

    #[expect(clippy::unused_self, reason = "the operators' common shape")]
    pub(super) fn last(&self) -> bool {
        false
    }
}

impl Embed {
    pub(crate) fn new(spec: EmbedSpec) -> Embed {
        Embed { spec, matrix: None }
    }

    pub(crate) fn spec(&self) -> EmbedSpec {
        self.spec
    }

    pub(crate) fn bind(&mut self, matrix: Matrix) {
        self.matrix = Some(matrix);
    }
}

operator!(Embed, "Embed");

impl EvalOp for Embed {
    not_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let matrix = bound(self.matrix.as_ref())?;
        let view = inputs[0].try_as_plain_ram()?;
        let ids = view.as_slice::<i64>()?;
        let width = matrix.columns();
        output(ids.len(), width, |out| {
            for (id, out) in ids.iter().zip(out.chunks_exact_mut(width)) {
                match usize::try_from(*id) {
                    Ok(row) if row < matrix.rows() => matrix.row(row, out),
                    _ => bail!("token {id} is not in the vocabulary of {}", matrix.rows()),
                }
            }
            TractResult::Ok(())
        })
    }
}
