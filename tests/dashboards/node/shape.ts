// A dashboard's JSON in Grafana's own published types. What Grafana has a default for may be left out; what it does not know may not be there.
import type { Dashboard, FieldConfig, Panel, RowPanel, VariableModel } from "./node_modules/@grafana/schema/dist/esm/raw/dashboard/x/dashboard_types.gen";
import type { Options as BarGauge } from "./node_modules/@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type { Options as Stat } from "./node_modules/@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type { FieldConfig as TableFields, Options as Table } from "./node_modules/@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type { FieldConfig as SeriesFields, Options as Series } from "./node_modules/@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// JSON has words where the types have enums, and defaults are filled in later.
type Plain<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T
  : T extends (infer Item)[] ? Plain<Item>[] : T extends object ? { [Key in keyof T]?: Plain<T[Key]> } : T;

type DataSource = { type: "prometheus"; uid: "${datasource}" };
type Place = { h: number; w: number; x: number; y: number };
// Prometheus' queries are not in this package; these are the fields of its data source's query.
type Target = {
  refId: string; datasource: DataSource; editorMode: "code"; expr: string; format: "time_series" | "table";
  instant: boolean; range: boolean; legendFormat: string;
};
type Shown<Kind, Options, Custom> = Plain<Omit<Panel, "type" | "options" | "fieldConfig" | "targets" | "datasource" | "gridPos" | "transformations">> & {
  id: number; type: Kind; title: string; description: string; gridPos: Place; datasource: DataSource; targets: Target[];
  options: Plain<Options>;
  fieldConfig: { defaults: Plain<Omit<FieldConfig, "custom" | "thresholds">> & {
      unit: string; custom?: Plain<Custom>;
      thresholds?: { mode: "absolute"; steps: { color: string; value: number | null }[] };
    };
    overrides: { matcher: { id: string; options: string }; properties: { id: string; value: unknown }[] }[];
  };
  transformations?: { id: string; options: unknown }[];
};
type Any = Shown<"stat", Stat, never> | Shown<"bargauge", BarGauge, never> | Shown<"timeseries", Series, SeriesFields> | Shown<"table", Table, TableFields>;
type Row = Plain<Omit<RowPanel, "type" | "panels" | "gridPos">> & { type: "row"; gridPos: Place; panels: Any[] };
type Mark = {
  name: string; datasource: DataSource; enable: boolean; hide: boolean; iconColor: string; expr: string; step: string;
  titleFormat: string; textFormat: string; tagKeys: string; useValueForTime: boolean;
};
export type Whole = Plain<Omit<Dashboard, "panels" | "templating" | "annotations">> & {
  uid: string; title: string; schemaVersion: number; panels: (Any | Row)[];
  templating: { list: (Plain<VariableModel> & { datasource?: DataSource; definition?: string })[] };
  annotations: { list: Mark[] };
};
