import { short } from './table.js';

export interface Bar {
  readonly label: string;
  readonly value: number;
  readonly min: number;
  readonly max: number;
}

export interface BarGroup {
  readonly title: string;
  readonly bars: readonly Bar[];
}

const WIDTH = 720;
const LABEL = 190;
const VALUE = 70;
const ROW = 22;
const COLORS = ['#2563eb', '#d97706', '#059669', '#7c3aed', '#dc2626', '#475569'];

const escaped = (text: string): string => text.replace(/[<&>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** SVG of horizontal bars, each group on its own scale, with a line from the smallest to the largest run. */
export function barChart(title: string, groups: readonly BarGroup[]): string {
  const labels = [...new Set(groups.flatMap(({ bars }) => bars.map(({ label }) => label)))];
  const space = WIDTH - LABEL - VALUE;
  const parts: string[] = [];
  let y = 56;
  for (const group of groups) {
    const most = Math.max(...group.bars.map(({ max }) => max), Number.MIN_VALUE);
    parts.push(`<text x="12" y="${y + 4}" class="group">${escaped(group.title)}</text>`);
    y += 14;
    for (const { label, value, min, max } of group.bars) {
      const at = (figure: number): number => Math.round((LABEL + (figure / most) * space) * 10) / 10;
      const color = COLORS[labels.indexOf(label) % COLORS.length];
      const middle = y + ROW / 2;
      parts.push(
        `<text x="${LABEL - 8}" y="${middle + 4}" text-anchor="end">${escaped(label)}</text>`,
        `<rect x="${LABEL}" y="${y + 3}" width="${Math.max(1, at(value) - LABEL)}" height="${ROW - 6}" fill="${color}"/>`,
        `<line x1="${at(min)}" x2="${at(max)}" y1="${middle}" y2="${middle}" stroke="#111" stroke-width="1.5"/>`,
        `<text x="${at(max) + 6}" y="${middle + 4}">${short(value)}</text>`,
      );
      y += ROW;
    }
    y += 20;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y}" width="${WIDTH}" height="${y}" font-family="system-ui, sans-serif" font-size="12">
<title>${escaped(title)}</title>
<style>text{fill:#111}.title{font-size:15px;font-weight:600}.group{font-weight:600}.unit{fill:#555}</style>
<rect width="${WIDTH}" height="${y}" fill="#fff"/>
<text x="12" y="22" class="title">${escaped(title)}</text>
<text x="12" y="38" class="unit">median, line from minimum to maximum</text>
${parts.join('\n')}
</svg>
`;
}
